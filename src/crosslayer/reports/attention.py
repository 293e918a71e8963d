"""The paper's Figure 2: how much block l of a stage attends to block m."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Never

import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor, nn

from crosslayer.errors import UsageError
from crosslayer.mechanisms import Mechanism
from crosslayer.mechanisms.depth_pass import capture_states
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
    for stages in _attended(model, batches):
        images += len(stages[0])
        matrices = [attention.double().mean(1).sum(0).cpu() for attention in stages]
        sums = [total + matrix for total, matrix in zip(sums or [0] * len(matrices), matrices, strict=True)]
    return [total / images for total in sums if isinstance(total, Tensor)]


@torch.no_grad()
def attention_entropies(model: nn.Module, batches: Iterable[Tensor]) -> list[Tensor]:
    """For each stage, how every image's attention is spread: images × rows, from block 2 on.

    Of row l, -Σ_m a_lm log a_lm / log n, the mean over heads; n = l blocks, one more with the stage's input. It is 0
    where a block looks at one block only and 1 where it looks at all of them alike.

    Raises:
        UsageError: the network's mechanism has no attention over layers.
    """
    found = [[_entropy(attention) for attention in stages] for stages in _attended(model, batches)]
    return [torch.cat(of_stage) for of_stage in zip(*found, strict=True)]


def _entropy(attention: Tensor) -> Tensor:
    """Batch × rows of two columns and more, of batch × heads × l × m."""
    if (attention < 0).any():
        raise UsageError("weights with signs have no entropy")
    rows = -torch.special.xlogy(attention.double(), attention.double()).sum(-1).mean(1)
    counts = torch.arange(1, rows.shape[1] + 1) + attention.shape[3] - attention.shape[2]
    return (rows / counts.to(rows).log())[:, counts > 1].cpu()


def _attended(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Every batch's attention in every stage; raises what `attention_of` does."""
    with capture_states() as captured:
        for batch in batches:
            captured.clear()
            model(batch)
            yield [attention_of(mechanism, state) for mechanism, state in captured] or [no_attention()]


def attention_of(mechanism: Mechanism[Any], state: Any) -> Tensor:
    """One batch's attention in one stage: batch × heads × l × m.

    Raises:
        UsageError: the mechanism has no attention over layers.
    """
    attention = mechanism.attention(state)
    return no_attention() if attention is None else attention


def no_attention() -> Never:
    """Raises the UsageError of a network whose blocks do not look back."""
    raise UsageError(
        "its mechanism has no attention over layers as it is configured; dla_b, dla_l, mrla_b, mrla_l, attnres, "
        "delta_attnres and denseformer have"
    )


def draw_attention(runs: Sequence[tuple[str, list[Tensor]]], path: Path) -> None:
    """Writes `attention_figure` as PNG."""
    write_figure(attention_figure(runs), path)


def attention_figure(runs: Sequence[tuple[str, list[Tensor]]]) -> Figure:
    """One row of pictures per run, one column per stage; a run has a title, which may be empty."""
    stages = max(len(matrices) for _, matrices in runs)
    figure = new_figure(3.4 * stages + 0.8, 3.4 * len(runs) + 0.2)
    grid = figure.subplots(len(runs), stages, squeeze=False)
    largest = max(float(matrix.abs().max()) for _, matrices in runs for matrix in matrices)
    signed = any(bool((matrix < 0).any()) for _, matrices in runs for matrix in matrices)
    scale, colours = (Normalize(-largest, largest), "RdBu") if signed else (Normalize(0, 1), "viridis")
    for row, (title, matrices) in enumerate(runs):
        for column, matrix in enumerate(matrices):
            axes = grid[row, column]
            hidden = torch.triu(torch.ones_like(matrix, dtype=torch.bool), 1 + _more_columns(matrix))
            axes.imshow(matrix.masked_fill(hidden, torch.nan).numpy(), cmap=colours, norm=scale)
            axes.set_title(", ".join(filter(None, (title, f"stage {column + 1}"))), fontsize=10)
            axes.set_xlabel("attended block m")
            axes.set_ylabel("block l")
            _number_blocks(axes, matrix, scale.vmin or 0.0)
    figure.colorbar(ScalarMappable(scale, colours), ax=grid, label="attention", shrink=0.8)
    return figure


def _more_columns(matrix: Tensor) -> int:
    """1 where the stage's input is looked at too."""
    return matrix.shape[1] - matrix.shape[0]


def _number_blocks(axes: Axes, matrix: Tensor, lowest: float) -> None:
    """Counts blocks from 1, after the stage's input; writes the numbers in where there is room."""
    depth, more = len(matrix), _more_columns(matrix)
    ticks = range(0, depth, max(1, depth // 6))
    axes.set_xticks([*range(more), *(t + more for t in ticks)], ["in"] * more + [str(t + 1) for t in ticks])
    axes.set_yticks(ticks, [str(t + 1) for t in ticks])
    if depth > FEW:
        return
    for row in range(depth):
        for column in range(row + 1 + more):
            value = float(matrix[row, column])
            light = value > 0.6 if lowest == 0 else abs(value) < 0.6 * -lowest
            colour = "black" if light else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)
