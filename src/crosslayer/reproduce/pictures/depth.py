"""Accuracy against depth (the paper's Figure 4)."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crosslayer.reports.paper_accuracy import Printed
from crosslayer.reproduce.pictures.looks import finish, looks, titled_figure
from crosslayer.reproduce.results import Line, Spread
from crosslayer.reproduce.study import Study

Value = Callable[[Line], Spread | Printed | None]
APART = 1.1
"""Layers between the variants of one depth, so that their error bars do not cover each other."""


def has_depths(lines: Sequence[Line]) -> bool:
    """Whether there is anything to draw against depth."""
    return any(len({depth(line) for line in own}) > 1 for own in by_recipe(lines).values())


def depth_figure(study: Study, lines: Sequence[Line], reduced: str) -> Figure:
    """A row of panels per data set, ours and (unless ours is reduced) the paper's; bars are standard deviations."""
    panels = by_recipe(lines)
    sides: dict[str, Value] = {"ours": lambda line: line.last}
    if not reduced and any(line.metric.printed for line in lines):
        sides["the paper's"] = lambda line: line.metric.printed
    figure = titled_figure(5 * len(sides) + 1.6, 4.2 * len(panels) + 0.3, f"{study.title}, by depth", reduced)
    grid = figure.subplots(len(panels), len(sides), squeeze=False, sharey="row")
    styles = looks(line.cell.variant for line in lines)
    for row, (name, own) in zip(grid, panels.items(), strict=True):
        for axes, (side, value) in zip(row, sides.items(), strict=True):
            draw_side(axes, own, value, styles)
            finish(axes, f"{name}, {side}", "depth (layers)", own[0].metric.name)
            axes.set_xticks(sorted({depth(line) for line in own}))
        row[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def draw_side(axes: Axes, lines: list[Line], value: Value, styles: dict[str, dict[str, Any]]) -> None:
    """Every variant, slightly beside each other."""
    for place, (variant, style) in enumerate(styles.items()):
        found = ((depth(line), value(line)) for line in lines if line.cell.variant == variant)
        points = sorted((at, each.mean, each.std or 0) for at, each in found if each is not None)
        if points:
            x, means, stds = zip(*points, strict=True)
            beside = [at + APART * (place - len(styles) / 2) for at in x]
            axes.errorbar(beside, means, stds, label=variant, capsize=2, markersize=6, **style)


def by_recipe(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of each data set."""
    names = dict.fromkeys(line.cell.recipe for line in lines)
    return {name: [line for line in lines if line.cell.recipe == name] for name in names}


def depth(line: Line) -> int:
    """Layers of a line's network."""
    found = re.search(r"(\d+)$", line.cell.backbone)
    return int(found[1]) if found else 0
