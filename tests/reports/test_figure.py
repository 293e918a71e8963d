from pathlib import Path

import numpy as np
from PIL import Image

from crosslayer.reports.figure import new_figure, write_figure


def test_names_with_dollar_signs_are_drawn_as_they_are(tmp_path: Path):
    """As a formula the first would lose its signs, and the second end the command."""
    names = ["$5_$10", r"$\bad{$"]
    figure = new_figure(3, 3)
    axes = figure.add_subplot()
    for name in names:
        axes.plot([1, 2], [3, 4], label=name)
    axes.set_xticks([1, 2], names)
    axes.set_yscale("log")
    axes.set_title(names[0])
    axes.legend()
    write_figure(figure, tmp_path / "x.png")
    assert np.asarray(Image.open(tmp_path / "x.png")).std() > 0
    assert [label.get_parse_math() for label in axes.get_xticklabels()] == [False, False]
    assert "mathdefault" in axes.get_yticklabels()[-1].get_text()
    assert axes.get_yticklabels()[-1].get_parse_math()
