"""Every picture of a study: accuracy over epochs, against depth (the paper's Figure 4) and against what it costs."""

import math
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crosslayer.reports.figure import write_figure
from crosslayer.reports.paper import Printed
from crosslayer.reproduce.plot_style import finish, plot_styles, titled_figure
from crosslayer.reproduce.results import Line, Spread, by_network
from crosslayer.reproduce.study import Study

_COLUMNS = 2
_MARKS = 10
"""Markers along a curve."""


def _has_curves(lines: Sequence[Line]) -> bool:
    """Whether any run has more than one epoch."""
    return any(len(run.rows) > 1 for line in lines for run in line.finished)


def _curves_figure(study: Study, lines: Sequence[Line], reduced: str) -> Figure:
    """A panel per network: the mean over seeds, and a band of one standard deviation to both sides."""
    panels = by_network(lines)
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = titled_figure(5.6 * columns + 1.4, 3.8 * rows + 0.4, f"{study.title}: training curves", reduced)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    styles = plot_styles(line.cell.variant for line in lines)
    for axes, (name, own) in zip(grid, panels.items(), strict=False):
        for line in own:
            _draw_curve(axes, line, styles[line.cell.variant])
        finish(axes, name, "epoch", f"validation {own[0].metric.name}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def _draw_curve(axes: Axes, line: Line, style: dict[str, Any]) -> None:
    """One variant, over the epochs that all its seeds have."""
    curves = ([run.value(row, line.metric) for row in run.rows] for run in line.finished)
    values = [Spread(tuple(each)) for each in zip(*curves, strict=False)]
    epochs = range(1, len(values) + 1)
    means, stds = [value.mean for value in values], [value.std or 0 for value in values]
    label = f"{line.cell.variant}, {len(line.finished)} seed{'s' * (len(line.finished) != 1)}"
    axes.plot(epochs, means, label=label, markevery=max(1, len(values) // _MARKS), markersize=5, **style)
    low, high = ([m + sign * s for m, s in zip(means, stds, strict=True)] for sign in (-1, 1))
    axes.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)


_Value = Callable[[Line], Spread | Printed | None]
_APART = 1.1
"""Layers between the variants of one depth, so that their error bars do not cover each other."""


def _has_depths(lines: Sequence[Line]) -> bool:
    """Whether there is anything to draw against depth."""
    return any(len({_depth(line) for line in own}) > 1 for own in _by_recipe(lines).values())


def _depth_figure(study: Study, lines: Sequence[Line], reduced: str) -> Figure:
    """A row of panels per data set, ours and (unless ours is reduced) the paper's; bars are standard deviations."""
    panels = _by_recipe(lines)
    sides: dict[str, _Value] = {"ours": lambda line: line.last}
    if not reduced and any(line.metric.printed for line in lines):
        sides["the paper's"] = lambda line: line.metric.printed
    figure = titled_figure(5 * len(sides) + 1.6, 4.2 * len(panels) + 0.3, f"{study.title}, by depth", reduced)
    grid = figure.subplots(len(panels), len(sides), squeeze=False, sharey="row")
    styles = plot_styles(line.cell.variant for line in lines)
    for row, (name, own) in zip(grid, panels.items(), strict=True):
        for axes, (side, value) in zip(row, sides.items(), strict=True):
            _draw_side(axes, own, value, styles)
            finish(axes, f"{name}, {side}", "depth (layers)", own[0].metric.name)
            axes.set_xticks(sorted({_depth(line) for line in own}))
        row[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _draw_side(axes: Axes, lines: list[Line], value: _Value, styles: dict[str, dict[str, Any]]) -> None:
    """Every variant, slightly beside each other."""
    for place, (variant, style) in enumerate(styles.items()):
        found = ((_depth(line), value(line)) for line in lines if line.cell.variant == variant)
        points = sorted((at, each.mean, each.std or 0) for at, each in found if each is not None)
        if points:
            x, means, stds = zip(*points, strict=True)
            beside = [at + _APART * (place - len(styles) / 2) for at in x]
            axes.errorbar(beside, means, stds, label=variant, capsize=2, markersize=6, **style)


def _by_recipe(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of each data set."""
    names = dict.fromkeys(line.cell.recipe for line in lines)
    return {name: [line for line in lines if line.cell.recipe == name] for name in names}


def _depth(line: Line) -> int:
    """Layers of a line's network."""
    found = re.search(r"(\d+)$", line.cell.backbone)
    return int(found[1]) if found else 0


_COSTS = {
    "parameters_m": "parameters (10⁶)",
    "images_per_second": "training throughput (images/s, as the runs measured it)",
    "wall_seconds": "training time (s, all of the run)",
}


def _cost_figure(study: Study, lines: Sequence[Line], reduced: str) -> Figure:
    """Against parameters, and the throughput and time that the runs measured: a row of panels per network."""
    panels = by_network(lines)
    figure = titled_figure(16, 4.0 * len(panels) + 0.3, f"{study.title}, by size and speed", reduced)
    grid = figure.subplots(len(panels), len(_COSTS), squeeze=False, sharey="row")
    styles = plot_styles(line.cell.variant for line in lines)
    for row, (name, own) in zip(grid, panels.items(), strict=True):
        for axes, (key, label) in zip(row, _COSTS.items(), strict=True):
            for line in own:
                _draw_point(axes, line, key, styles[line.cell.variant])
            finish(axes, name, label, own[0].metric.name)
            axes.margins(0.1)
        row[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _draw_point(axes: Axes, line: Line, key: str, style: dict[str, Any]) -> None:
    """One variant, with the standard deviations of both axes."""
    assert line.last is not None
    costs = [run.summary[key] for run in line.finished]
    x, y = statistics.fmean(costs), line.last.mean
    error = statistics.stdev(costs) if len(costs) > 1 else 0
    axes.errorbar(x, y, line.last.std or 0, error, capsize=3, color=style["color"])
    axes.plot(x, y, marker=style["marker"], color=style["color"], ls="none", ms=8, label=line.cell.variant)


_Lines = Sequence[Line]


class _Picture(NamedTuple):
    """A kind of picture: the end of its file's name, what draws it, and whether results are enough for it."""

    suffix: str
    draw: Callable[[Study, _Lines, str], Figure]
    fits: Callable[[_Lines], bool]


_PICTURES = (
    _Picture("curves", _curves_figure, _has_curves),
    _Picture("depth", _depth_figure, _has_depths),
    _Picture("cost", _cost_figure, bool),
)


def draw_all(study: Study, lines: _Lines, reduced: str, output: Path) -> list[Path]:
    """Writes every picture of the first metrics that there are results for; returns the files."""
    drawn = [line for line in lines if line.finished and line.metric == line.cell.metrics[0]]
    files: list[Path] = []
    for picture in _PICTURES:
        if picture.fits(drawn):
            files.append(output / f"{study.name}-{picture.suffix}.png")
            write_figure(picture.draw(study, drawn, reduced), files[-1])
    return files
