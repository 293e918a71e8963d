"""Rows of `crosslayer bench` as a table and as a picture."""

import itertools
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from rich.table import Table

from crosslayer.benchmark.configuration import how_run
from crosslayer.reports.figure import new_figure, write_figure

COLUMNS = {
    "images/s": ("images_per_second", ",.1f"),
    "ms/image": ("ms_per_image", ".3f"),
    "spread": ("spread", ".1%"),
    "to plain": ("relative_to_plain", ".3f"),
    "peak MB": ("peak_memory_mb", ",.1f"),
    "saved MB": ("saved_mb", ",.1f"),
    "of limit": ("of_limit", ".1%"),
}
LOOKS = {"eager": {"color": "0.82", "hatch": "//"}, "compiled": {"color": "0.45", "hatch": ""}}
"""Told apart by grey and by hatching, in print too."""


def throughput_table(rows: list[dict[str, Any]]) -> Table:
    """One row per configuration, groups set apart."""
    table = Table("network", "mode", "how", title="Throughput; ratios are to the plain network's best of the group")
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    for group in grouped(rows):
        for row in group:
            network = f"{row['backbone']} + {row['mechanism']}"
            mode = f"{row['mode']} {row['precision']}, {row['batch_size']} × {row['image_size']}²"
            numbers = [cell(row[key], form) for key, form in COLUMNS.values()]
            table.add_row(network, mode, how_run(row["compiled"], row["impl"], row["runtime"]), *numbers)
        table.add_section()
    return table


def cell(value: float | None, form: str) -> str:
    """A number as the table prints it."""
    return "–" if value is None else format(value, form)


def grouped(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows that are compared with each other."""
    return [list(group) for _, group in itertools.groupby(rows, key=lambda row: row["group"])]


def draw_throughput(rows: list[dict[str, Any]], machine: str, path: Path) -> None:
    """Images per second, a panel per group, the ratio to the plain network's best written at each bar."""
    groups = grouped(rows)
    heights = [len(group) + 1.5 for group in groups]
    figure = new_figure(9, 0.32 * sum(heights) + 1.2)
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, group in zip(panels, groups, strict=True):
        _draw_group(axes, [row for row in group if row["error"] is None])
        title = "{mode}, {precision}, {runtime}, batch {batch_size}, {image_size}×{image_size}"
        axes.set_title(title.format(**group[0]), size=10)
    panels[-1].set_xlabel("images per second; beside the bar: relative to the plain network's best")
    shown = [how for how in LOOKS if any(row["compiled"] == how for row in rows)]
    handles = [Patch(label=how, edgecolor="black", **face(how)) for how in shown]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    figure.suptitle(machine, size=10, x=0.02, ha="left")
    write_figure(figure, path)


def _draw_group(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """One bar per configuration, the plain network on top."""
    for position, row in enumerate(rows):
        speed = row["images_per_second"]
        error = speed * (row["spread"] or 0) / 2
        axes.barh(position, speed, xerr=error, edgecolor="black", height=0.75, **face(row["compiled"]))
        ratio = row["relative_to_plain"]
        axes.annotate(cell(ratio, ".2f"), (speed + error, position), (4, 0), textcoords="offset points", va="center")
    names = [f"{row['backbone']} + {row['mechanism']}, {row['impl']}" for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(axis="x", alpha=0.3)


def face(compiled: str) -> dict[str, Any]:
    """How a bar is filled."""
    return {"facecolor": LOOKS[compiled]["color"], "hatch": LOOKS[compiled]["hatch"]}
