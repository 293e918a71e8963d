from pathlib import Path
from typing import Any

from crosslayer.reports.figure import new_figure, write_figure


def draw_curves(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Loss and accuracy over epochs, for training and validation."""
    figure = new_figure(9, 3.6)
    epochs = [row["epoch"] for row in rows]
    mark = "." if len(epochs) < 40 else None
    for axes, quantity, label in zip(
        figure.subplots(1, 2), ("loss", "top1"), ("cross-entropy", "top-1 accuracy (%)"), strict=True
    ):
        for split, style in (("train", "--"), ("val", "-")):
            values = [row[f"{split}/{quantity}"] for row in rows]
            axes.plot(epochs, values, style, marker=mark, label=split)
        if quantity == "loss":
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend()
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    write_figure(figure, path)
