from pathlib import Path
from typing import Any, NamedTuple

from crosslayer.reports.figure import new_figure, write_figure
from crosslayer.training.recipe import TaskName


class Panel(NamedTuple):
    """Figures of an epoch's row that share axes, by the names of their curves, and how they are drawn."""

    label: str
    curves: dict[str, tuple[str, str]]
    logarithmic: bool = False


PANELS: dict[TaskName, tuple[Panel, Panel]] = {
    "classification": (
        Panel("cross-entropy", {"train": ("train/loss", "--"), "val": ("val/loss", "-")}, logarithmic=True),
        Panel("top-1 accuracy (%)", {"train": ("train/top1", "--"), "val": ("val/top1", "-")}),
    ),
    "detection": (
        Panel("training loss", {"all parts": ("train/loss", "-")}, logarithmic=True),
        Panel(
            "average precision (%)",
            {"AP": ("val/ap", "-"), "AP50": ("val/ap50", "--"), "mask AP": ("val/mask_ap", "-.")},
        ),
    ),
}


def draw_curves(rows: list[dict[str, Any]], task: TaskName, title: str, path: Path) -> None:
    """Loss and score over epochs."""
    figure = new_figure(9, 3.6)
    epochs = [row["epoch"] for row in rows]
    mark = "." if len(epochs) < 40 else None
    for axes, panel in zip(figure.subplots(1, 2), PANELS[task], strict=True):
        for name, (quantity, style) in panel.curves.items():
            if quantity in rows[0]:
                axes.plot(epochs, [row[quantity] for row in rows], style, marker=mark, label=name)
        if panel.logarithmic:
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_ylabel(panel.label)
        axes.grid(alpha=0.3)
        axes.legend()
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    write_figure(figure, path)
