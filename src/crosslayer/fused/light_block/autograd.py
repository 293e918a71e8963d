"""`light_block` on a CPU: one pass over the maps, from the last convolution to the block's output; to evaluate only."""

import torch
from torch import Tensor
from torch.utils.flop_counter import conv_flop_count

from crosslayer.fused.batch_norm import norm_of
from crosslayer.fused.custom_op import custom_op, depthwise_flops
from crosslayer.fused.layout import new_map
from crosslayer.fused.light_block import cpu


def _shapes(
    convolved,
    shortcut,
    norm,
    epsilon,
    shortcut_norm,
    shortcut_epsilon,
    query,
    key,
    value,
    head_channels,
    scale,
    stage_kernel,
    cell,
    pool,
    recalled,
    memory,
    merged_norm,
    merged_epsilon,
):
    (batch, channels), dtype = convolved.shape[:2], _vector_dtype(convolved, scale)
    kept = channels if cell else 0
    counts = (channels // head_channels, channels, 3 * kept, kept)
    vectors = [convolved.new_empty(batch, count, dtype=dtype) for count in counts]
    return new_map(convolved), convolved.new_empty(batch, channels), *vectors


def _flops(
    convolved,
    shortcut,
    norm,
    epsilon,
    shortcut_norm,
    shortcut_epsilon,
    query,
    key,
    value,
    head_channels,
    scale,
    stage_kernel,
    cell,
    pool,
    recalled,
    *others,
):
    batch, channels = convolved[:2]
    of_maps = sum(depthwise_flops(convolved, kernel) for kernel in (value, stage_kernel) if kernel is not None)
    of_vectors = sum(conv_flop_count([batch, 1, channels], list(one), [batch, 1, channels]) for one in (query, key))
    return of_maps + of_vectors + _cell_flops(batch, cell, known=recalled is not None)


def _cell_flops(batch, cell, known):
    """Two steps see an input, one makes something of its hidden vector, and so does what comes before the first."""
    of_input, of_hidden = (
        sum(2 * batch * rows * columns for rows, columns in net[::2]) for net in (cell[:4], cell[4:])
    )
    return 2 * of_input + (1 if known else 2) * of_hidden


@custom_op("light_block", fake=_shapes, flops=_flops)
def light_block(
    convolved: Tensor,
    shortcut: Tensor,
    norm: list[Tensor],
    epsilon: float,
    shortcut_norm: list[Tensor],
    shortcut_epsilon: float,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_channels: int,
    scale: Tensor,
    stage_kernel: Tensor | None,
    cell: list[Tensor],
    pool: Tensor | None,
    recalled: Tensor | None,
    memory: Tensor | None,
    merged_norm: list[Tensor],
    merged_epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The block's output and its pool, the heads' gates, what it carries on, and the context (empty without a cell).

    A norm is its weight, bias, mean and variance, that of the shortcut may be nothing; the cell is its eight weights or
    nothing.
    """
    of_end, of_merge = norm_of(norm, epsilon, convolved), norm_of(merged_norm, merged_epsilon, convolved)
    norms = (of_end, norm_of(shortcut_norm, shortcut_epsilon, convolved) if shortcut_norm else None, of_merge)
    weights = cpu.Weights(query, key, value, stage_kernel, scale)
    made = cpu.light_block(convolved, shortcut, norms, weights, head_channels, cell, [pool, recalled, memory])
    out, (*vectors, of_out) = made
    dtype = _vector_dtype(convolved, scale)
    gates, carried, recalled, memory = (one.to(dtype) for one in vectors)
    return out, of_out, gates, carried, recalled, memory


def _vector_dtype(x: Tensor, scale: Tensor) -> torch.dtype:
    """What products of a pool of x and of weights like λ are in."""
    return torch.promote_types(x.dtype, scale.dtype)
