from pathlib import Path

from matplotlib.colors import PowerNorm
from torch import Tensor

from crosslayer.reports.figure import new_figure, write_figure

MANY = 30
"""Classes above which names and numbers are left out."""


def draw_confusion(confusion: Tensor, classes: tuple[str, ...], title: str, path: Path) -> None:
    """Share of the images of each class (row) that was taken for each class (column)."""
    shares = confusion.double() / confusion.sum(1, keepdim=True).clamp_min(1)
    few = len(classes) <= MANY
    side = max(4.5, 0.45 * len(classes)) if few else 9
    figure = new_figure(side + 1.2, side)
    axes = figure.subplots()
    image = axes.imshow(shares.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    figure.colorbar(image, label="share of the class's images", fraction=0.046)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title)
    if few:
        axes.set_xticks(range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 2 else 0)
        axes.set_yticks(range(len(classes)), classes)
        for row, counts in enumerate(confusion.tolist()):
            for column, count in enumerate(counts):
                if count:
                    colour = "white" if shares[row, column] > 0.4 else "black"
                    axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    write_figure(figure, path)
