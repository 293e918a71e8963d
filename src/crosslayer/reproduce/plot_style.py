"""How the pictures of studies look."""

import itertools
import textwrap
from collections.abc import Iterable
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crosslayer.reports.figure import new_figure
from crosslayer.reproduce.tables import banner

MARKERS = "osD^vP*X<>hp"
DASHES = ("-", "--", "-.", ":")
LIGHTEST = 0.72
"""Of a scale that ends in a yellow too light for paper."""


def plot_styles(variants: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Variant → what matplotlib draws it with."""
    names = list(dict.fromkeys(variants))
    shades = colormaps["cividis"]([LIGHTEST * i / max(1, len(names) - 1) for i in range(len(names))])
    drawn = zip(names, itertools.cycle(MARKERS), itertools.cycle(DASHES), shades, strict=False)
    return {name: {"marker": marker, "linestyle": dash, "color": shade} for name, marker, dash, shade in drawn}


def titled_figure(width: float, height: float, title: str, reduced: str) -> Figure:
    """A figure with a title, and with what is reduced below it."""
    wrapped = textwrap.fill(banner(reduced), round(width * 11.5))
    figure = new_figure(width, height + 0.17 * wrapped.count("\n") + (0.3 if reduced else 0))
    figure.suptitle("\n".join(filter(None, [title, wrapped])), size=10)
    return figure


def finish(axes: Axes, title: str, x: str, y: str) -> None:
    """Names and a grid."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
