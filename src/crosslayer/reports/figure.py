"""How every picture is made and written."""

import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from crosslayer.files import whole_file


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG; dollar signs in its texts, which may be names of a user's, are dollar signs."""
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.get_text():  # powers at a logarithmic axis are written later, as formulas
            text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    with whole_file(path) as file:
        file.write(buffer.getvalue())
