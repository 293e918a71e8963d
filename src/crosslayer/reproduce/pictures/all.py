"""Every picture of a study."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from crosslayer.reports.figure import write_figure
from crosslayer.reproduce.pictures.cost import cost_figure
from crosslayer.reproduce.pictures.curves import curves_figure, has_curves
from crosslayer.reproduce.pictures.depth import depth_figure, has_depths
from crosslayer.reproduce.results import Line
from crosslayer.reproduce.study import Study

Lines = Sequence[Line]


class Picture(NamedTuple):
    """A kind of picture: the end of its file's name, what draws it, and whether results are enough for it."""

    suffix: str
    draw: Callable[[Study, Lines, str], Figure]
    fits: Callable[[Lines], bool]


PICTURES = (
    Picture("curves", curves_figure, has_curves),
    Picture("depth", depth_figure, has_depths),
    Picture("cost", cost_figure, bool),
)


def draw_all(study: Study, lines: Lines, reduced: str, output: Path) -> list[Path]:
    """Writes every picture of the first metrics that there are results for; returns the files."""
    drawn = [line for line in lines if line.finished and line.metric == line.cell.metrics[0]]
    files: list[Path] = []
    for picture in PICTURES:
        if picture.fits(drawn):
            files.append(output / f"{study.name}-{picture.suffix}.png")
            write_figure(picture.draw(study, drawn, reduced), files[-1])
    return files
