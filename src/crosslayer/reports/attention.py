"""The paper's Figure 2: how much block l of a stage attends to block m."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Never

import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from torch import Tensor, nn

from crosslayer.errors import UsageError
from crosslayer.mechanisms import Mechanism
from crosslayer.models.finished_states import finished_states
from crosslayer.reports.figure import new_figure, write_figure

FEW = 8
"""Blocks up to which the numbers are written into the matrix."""


@torch.no_grad()
def attention_matrices(model: nn.Module, batches: Iterable[Tensor]) -> list[Tensor]:
    """For each stage the attention of block l (row) on block m (column), averaged over images and heads.

    Softmax weights for the B forms. For the L forms the share of each earlier block that the recursion implies:
    unrolled, block m's value enters block l with the factor g_m ⊙ Π_{m<j≤l} a_j (g the gate of its own value, a what
    a block carries on: λ, times the refresh gate in DLA); its magnitude, averaged over a head's channels, is
    divided by the sum over m. Rows sum to one.

    Raises:
        UsageError: the network's mechanism has no attention over layers.
    """
    sums: list[Tensor | int] = []
    images = 0
    with finished_states(model) as finished:
        for batch in batches:
            finished.clear()
            model(batch)
            images += len(batch)
            matrices = [of_stage(mechanism, state) for mechanism, state in finished] or [no_attention()]
            sums = [total + matrix for total, matrix in zip(sums or [0] * len(matrices), matrices, strict=True)]
    return [total / images for total in sums if isinstance(total, Tensor)]


def of_stage(mechanism: Mechanism[Any], state: Any) -> Tensor:
    """One batch's attention in one stage, summed over the images.

    Raises:
        UsageError: the mechanism has no attention over layers.
    """
    attention = mechanism.attention(state)
    if attention is None:
        no_attention()
    return attention.double().mean(1).sum(0).cpu()


def no_attention() -> Never:
    """Raises the UsageError of a network whose blocks do not look back."""
    raise UsageError("its mechanism has no attention over layers; dla_b, dla_l, mrla_b and mrla_l have")


def draw_attention(runs: Sequence[tuple[str, list[Tensor]]], path: Path) -> None:
    """One row of pictures per run, one column per stage."""
    stages = max(len(matrices) for _, matrices in runs)
    figure = new_figure(3.4 * stages + 0.8, 3.4 * len(runs) + 0.2)
    grid = figure.subplots(len(runs), stages, squeeze=False)
    scale = Normalize(0, 1)
    for row, (title, matrices) in enumerate(runs):
        for column, matrix in enumerate(matrices):
            axes = grid[row, column]
            hidden = torch.triu(torch.ones_like(matrix, dtype=torch.bool), 1)
            shown = matrix.masked_fill(hidden, torch.nan)
            axes.imshow(shown.numpy(), cmap="viridis", norm=scale)
            axes.set_title(f"{title}, stage {column + 1}", fontsize=10)
            axes.set_xlabel("attended block m")
            axes.set_ylabel("block l")
            number_blocks(axes, matrix)
    figure.colorbar(ScalarMappable(scale, "viridis"), ax=grid, label="attention", shrink=0.8)
    write_figure(figure, path)


def number_blocks(axes: Axes, matrix: Tensor) -> None:
    """Counts blocks from 1; writes the numbers in where there is room."""
    depth = len(matrix)
    ticks = range(0, depth, max(1, depth // 6))
    axes.set_xticks(ticks, [str(t + 1) for t in ticks])
    axes.set_yticks(ticks, [str(t + 1) for t in ticks])
    if depth > FEW:
        return
    for row in range(depth):
        for column in range(row + 1):
            value = float(matrix[row, column])
            colour = "black" if value > 0.6 else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)
