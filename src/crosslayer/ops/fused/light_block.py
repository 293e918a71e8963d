"""`light_block` on a CPU: one pass over the maps, from the last convolution to the block's output; to evaluate only."""

import torch
from torch import Tensor

from crosslayer.ops.fused.layout import new_map
from crosslayer.ops.fused.light_terms import norm_of
from crosslayer.ops.native import light_block_passes as passes


@torch.library.custom_op("crosslayer::light_block", mutates_args=())
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
    weights = passes.Weights(query, key, value, stage_kernel, scale)
    made = passes.light_block(convolved, shortcut, norms, weights, head_channels, cell, [pool, recalled, memory])
    out, (*vectors, of_out) = made
    dtype = vector_dtype(convolved, scale)
    gates, carried, recalled, memory = (one.to(dtype) for one in vectors)
    return out, of_out, gates, carried, recalled, memory


@light_block.register_fake
def _(
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
    (batch, channels), dtype = convolved.shape[:2], vector_dtype(convolved, scale)
    kept = channels if cell else 0
    counts = (channels // head_channels, channels, 3 * kept, kept)
    vectors = [convolved.new_empty(batch, count, dtype=dtype) for count in counts]
    return new_map(convolved), convolved.new_empty(batch, channels), *vectors


def vector_dtype(x: Tensor, scale: Tensor) -> torch.dtype:
    """What products of a pool of x and of weights like λ are in."""
    return torch.promote_types(x.dtype, scale.dtype)
