"""A study's results as pictures."""

import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from crosslayer.reports.figure import write_figure
from crosslayer.reproduce.looks import looks, titled_figure
from crosslayer.reproduce.results import Finished, Line, Spread
from crosslayer.reproduce.study import Metric, Study


class Picture(NamedTuple):
    """A kind of picture: the end of its file's name, and what draws it of the first metric's lines with results."""

    suffix: str
    draw: Callable[[Study, Sequence[Line], str, Path], None]
    fits: Callable[[Sequence[Line]], bool]


def draw_all(study: Study, lines: Sequence[Line], reduced: str, output: Path) -> list[Path]:
    """Writes every picture that the results are enough for; returns the files."""
    drawn = [line for line in lines if line.finished and line.metric == line.cell.metrics[0]]
    files: list[Path] = []
    for picture in PICTURES if drawn else ():
        if picture.fits(drawn):
            files.append(output / f"{study.name}-{picture.suffix}.png")
            picture.draw(study, drawn, reduced, files[-1])
    return files


def networks(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of each network."""
    return {name: [line for line in lines if line.cell.network == name] for name in sorted_once(lines)}


def sorted_once(lines: Sequence[Line]) -> list[str]:
    """Names of networks in the study's order."""
    return list(dict.fromkeys(line.cell.network for line in lines))


def draw_curves(study: Study, lines: Sequence[Line], reduced: str, path: Path) -> None:
    """Accuracy over epochs, a panel per network: the mean over seeds, and a band of one standard deviation."""
    panels = networks(lines)
    styles = looks(line.cell.variant for line in lines)
    figure = titled_figure(5.2 * len(panels) + 1.4, 4.2, f"{study.title}: training curves", reduced)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, own) in zip(grid, panels.items(), strict=True):
        for line in own:
            draw_curve(axes, line, styles[line.cell.variant])
        finish(axes, name, "epoch", f"validation {own[0].metric.name}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=8)
    write_figure(figure, path)


def draw_curve(axes: Axes, line: Line, style: dict[str, Any]) -> None:
    """One variant, over the epochs that all its seeds have."""
    values = [Spread(tuple(row)) for row in zip(*(curve(run, line.metric) for run in line.finished), strict=False)]
    epochs = range(1, len(values) + 1)
    means, stds = [value.mean for value in values], [value.std or 0 for value in values]
    label = f"{line.cell.variant} ({len(line.finished)} seeds)"
    axes.plot(epochs, means, label=label, markevery=max(1, len(values) // 10), markersize=5, **style)
    low, high = [m - s for m, s in zip(means, stds, strict=True)], [m + s for m, s in zip(means, stds, strict=True)]
    axes.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)


def curve(run: Finished, metric: Metric) -> list[float]:
    """A run's values, epoch after epoch."""
    return [run.value(row, metric) for row in run.rows]


def draw_depth(study: Study, lines: Sequence[Line], reduced: str, path: Path) -> None:
    """Accuracy against depth, a panel per data set; error bars are standard deviations; the paper's dotted, hollow."""
    panels = data_sets(lines)
    styles = looks(line.cell.variant for line in lines)
    figure = titled_figure(5.6 * len(panels) + 1, 4.6, f"{study.title}: accuracy against depth", reduced)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, own) in zip(grid, panels.items(), strict=True):
        for variant in dict.fromkeys(line.cell.variant for line in own):
            draw_depths(axes, [line for line in own if line.cell.variant == variant], styles[variant], reduced)
        finish(axes, name, "depth (layers)", own[0].metric.name)
        axes.set_xticks(sorted({depth(line) for line in own}))
        axes.legend(fontsize=8, title=None if reduced else "filled: ours; hollow: the paper's", title_fontsize=8)
    write_figure(figure, path)


def draw_depths(axes: Axes, lines: list[Line], style: dict[str, Any], reduced: str) -> None:
    """One variant, ours and, unless ours is reduced, the paper's."""
    ours = sorted((depth(line), line.last) for line in lines if line.last)
    x, spreads = [at for at, _ in ours], [spread for _, spread in ours]
    y, errors = [spread.mean for spread in spreads], [spread.std or 0 for spread in spreads]
    axes.errorbar(x, y, errors, label=lines[0].cell.variant, capsize=3, **style)
    printed = sorted((depth(line), line.metric.printed) for line in lines if line.metric.printed)
    if printed and not reduced:
        hollow: dict[str, Any] = style | {"linestyle": ":", "markerfacecolor": "none"}
        figures = [figure for _, figure in printed]
        axes.errorbar(
            [at for at, _ in printed], [f.mean for f in figures], [f.std or 0 for f in figures], capsize=2, **hollow
        )


def data_sets(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of each recipe."""
    names = dict.fromkeys(line.cell.recipe for line in lines)
    return {name: [line for line in lines if line.cell.recipe == name] for name in names}


def depth(line: Line) -> int:
    """Layers of a line's network."""
    found = re.search(r"(\d+)$", line.cell.backbone)
    return int(found[1]) if found else 0


def has_depths(lines: Sequence[Line]) -> bool:
    """Whether there is anything to draw against depth."""
    return any(len({depth(line) for line in own}) > 1 for own in data_sets(lines).values())


def draw_cost(study: Study, lines: Sequence[Line], reduced: str, path: Path) -> None:
    """Accuracy against parameters and against the throughput that the runs measured, a row of panels per network."""
    panels = networks(lines)
    styles = looks(line.cell.variant for line in lines)
    figure = titled_figure(11, 4.2 * len(panels), f"{study.title}: accuracy against size and speed", reduced)
    grid = figure.subplots(len(panels), 2, squeeze=False)
    for row, (name, own) in zip(grid, panels.items(), strict=True):
        for axes, key, label in zip(row, ("parameters_m", "images_per_second"), COSTS, strict=True):
            for line in own:
                draw_point(axes, line, key, styles[line.cell.variant])
            finish(axes, name, label, own[0].metric.name)
            axes.margins(0.14)
        row[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    write_figure(figure, path)


COSTS = ("parameters (10⁶)", "training throughput (images/s, as the runs measured it)")


def draw_point(axes: Axes, line: Line, key: str, style: dict[str, Any]) -> None:
    """One variant, with the standard deviations of both axes."""
    costs = [run.summary[key] for run in line.finished]
    assert line.last is not None
    error = statistics.stdev(costs) if len(costs) > 1 else 0
    style = style | {"linestyle": "none"}
    x, y = statistics.fmean(costs), line.last.mean
    axes.errorbar(x, y, line.last.std or 0, error, capsize=3, markersize=8, label=line.cell.variant, **style)
    axes.annotate(line.cell.variant, (x, y), (6, 6), textcoords="offset points", fontsize=8)


def finish(axes: Axes, title: str, x: str, y: str) -> None:
    """Names and a grid."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)


PICTURES = (
    Picture("curves", draw_curves, lambda lines: any(len(run.rows) > 1 for line in lines for run in line.finished)),
    Picture("depth", draw_depth, has_depths),
    Picture("cost", draw_cost, bool),
)
