"""Attention over layers of a study's runs: the paper's Figure 2, and how spread it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from crosslayer.reports.attention import attention_entropies, attention_matrices, draw_attention
from crosslayer.reproduce.results import Line
from crosslayer.training import checkpoint
from crosslayer.training.run_directory import RunDirectory
from crosslayer.training.trained import load_trained

IMAGES = 256
CAPTION = "How spread attention is"
HEADINGS = ("variant", "stage", "entropy of a row", "its spread over images")
NOTE = (
    "Entropy of a block's attention over its own output and those before it, divided by the logarithm of their number: "
    "0 is one block only, 1 all of them alike; the mean over blocks from the second on, heads and images, and the "
    "standard deviation over images, which is 0 for attention that does not depend on the image. Of the first seed."
)


class Look(NamedTuple):
    """What one network attends to: for each stage the mean matrix, and entropies of images × rows."""

    variant: str
    matrices: list[Tensor]
    entropies: list[Tensor]


def read_attention(lines: Sequence[Line], device: str) -> list[Look]:
    """Of every network whose first finished run still has a checkpoint."""
    looks: list[Look] = []
    for line in lines:
        path = line.finished[0].run.path if line.finished else None
        if path and checkpoint.saved_steps(RunDirectory(path).checkpoints):
            trained = load_trained(path, device=device)
            model, images = trained.model, list(trained.val_batches(IMAGES))
            looks.append(Look(line.cell.variant, attention_matrices(model, images), attention_entropies(model, images)))
    return looks


def draw_looks(looks: Sequence[Look], reduced: str, file: Path) -> None:
    """One row of matrices for each."""
    draw_attention([(f"{x.variant}{' (REDUCED)' if reduced else ''}", x.matrices) for x in looks], file)


def spread_rows(looks: Sequence[Look]) -> list[tuple[str, ...]]:
    """Under `HEADINGS`, a row for every network and stage."""
    return [
        (look.variant, str(stage), f"{entropies.mean():.3f}", f"{entropies.mean(1).std():.3f}")
        for look in looks
        for stage, entropies in enumerate(look.entropies, 1)
    ]
