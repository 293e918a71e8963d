"""Accuracy against what it costs."""

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crosslayer.reproduce.pictures.looks import by_network, finish, looks, titled_figure
from crosslayer.reproduce.results import Line
from crosslayer.reproduce.study import Study

COSTS = {
    "parameters_m": "parameters (10⁶)",
    "images_per_second": "training throughput (images/s, as the runs measured it)",
}


def cost_figure(study: Study, lines: Sequence[Line], reduced: str) -> Figure:
    """Against parameters and against the throughput that the runs measured: a row of panels per network."""
    panels = by_network(lines)
    figure = titled_figure(11, 4.0 * len(panels) + 0.3, f"{study.title}, by size and speed", reduced)
    grid = figure.subplots(len(panels), len(COSTS), squeeze=False, sharey="row")
    styles = looks(line.cell.variant for line in lines)
    for row, (name, own) in zip(grid, panels.items(), strict=True):
        for axes, (key, label) in zip(row, COSTS.items(), strict=True):
            for line in own:
                draw_point(axes, line, key, styles[line.cell.variant])
            finish(axes, name, label, own[0].metric.name)
            axes.margins(0.1)
        row[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def draw_point(axes: Axes, line: Line, key: str, style: dict[str, Any]) -> None:
    """One variant, with the standard deviations of both axes."""
    assert line.last is not None
    costs = [run.summary[key] for run in line.finished]
    x, y = statistics.fmean(costs), line.last.mean
    error = statistics.stdev(costs) if len(costs) > 1 else 0
    axes.errorbar(x, y, line.last.std or 0, error, capsize=3, color=style["color"])
    axes.plot(x, y, marker=style["marker"], color=style["color"], ls="none", ms=8, label=line.cell.variant)
