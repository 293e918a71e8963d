"""Accuracy over epochs."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crosslayer.reproduce.pictures.looks import by_network, finish, looks, titled_figure
from crosslayer.reproduce.results import Line, Spread
from crosslayer.reproduce.study import Study

COLUMNS = 2
MARKS = 10
"""Markers along a curve."""


def has_curves(lines: Sequence[Line]) -> bool:
    """Whether any run has more than one epoch."""
    return any(len(run.rows) > 1 for line in lines for run in line.finished)


def curves_figure(study: Study, lines: Sequence[Line], reduced: str) -> Figure:
    """A panel per network: the mean over seeds, and a band of one standard deviation to both sides."""
    panels = by_network(lines)
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = titled_figure(5.6 * columns + 1.4, 3.8 * rows + 0.4, f"{study.title}: training curves", reduced)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    styles = looks(line.cell.variant for line in lines)
    for axes, (name, own) in zip(grid, panels.items(), strict=False):
        for line in own:
            draw_curve(axes, line, styles[line.cell.variant])
        finish(axes, name, "epoch", f"validation {own[0].metric.name}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def draw_curve(axes: Axes, line: Line, style: dict[str, Any]) -> None:
    """One variant, over the epochs that all its seeds have."""
    curves = ([run.value(row, line.metric) for row in run.rows] for run in line.finished)
    values = [Spread(tuple(each)) for each in zip(*curves, strict=False)]
    epochs = range(1, len(values) + 1)
    means, stds = [value.mean for value in values], [value.std or 0 for value in values]
    label = f"{line.cell.variant}, {len(line.finished)} seed{'s' * (len(line.finished) != 1)}"
    axes.plot(epochs, means, label=label, markevery=max(1, len(values) // MARKS), markersize=5, **style)
    low, high = ([m + sign * s for m, s in zip(means, stds, strict=True)] for sign in (-1, 1))
    axes.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)
