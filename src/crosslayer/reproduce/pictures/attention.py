"""Attention over layers of a study's runs (the paper's Figure 2)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from crosslayer.data.decode import decode_batch
from crosslayer.data.sources import open_source
from crosslayer.reports.attention import attention_matrices, draw_attention
from crosslayer.reproduce.results import Line
from crosslayer.reproduce.study import Study
from crosslayer.training import checkpoint
from crosslayer.training.recipes import DATASETS
from crosslayer.training.run_directory import RunDirectory
from crosslayer.training.trained import Trained, load_trained

IMAGES, BATCH = 256, 64


def draw_study_attention(study: Study, lines: Sequence[Line], reduced: str, output: Path, device: str) -> list[Path]:
    """One row of matrices for every network whose first finished run still has a checkpoint; returns the file."""
    drawn: list[tuple[str, list[Tensor]]] = []
    for line in lines:
        path = line.finished[0].run.path if line.finished else None
        if path and checkpoint.saved_steps(RunDirectory(path).checkpoints):
            trained = load_trained(path, device=device)
            title = f"{line.cell.variant}{' (REDUCED)' if reduced else ''}"
            drawn.append((title, attention_matrices(trained.model, batches(trained))))
    if not drawn:
        return []
    file = output / f"{study.name}-attention.png"
    draw_attention(drawn, file)
    return [file]


def batches(trained: Trained) -> Iterator[Tensor]:
    """Validation images, evenly spaced, as the network takes them."""
    split = open_source(trained.recipe.data, DATASETS.get(trained.name)).val
    chosen = torch.linspace(0, len(split) - 1, min(IMAGES, len(split))).round().long()
    for indices in chosen.split(BATCH):
        yield trained.prepare(decode_batch(split, indices.tolist(), trained.view()))
