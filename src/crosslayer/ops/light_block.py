"""A whole block's end with light layer attention: normalisation, shortcut, pool, attention, merge, and pool again."""

from typing import NamedTuple

import torch
from torch import Tensor

from crosslayer.ops.dsu import DSU, Context
from crosslayer.ops.fused import light_block as fused
from crosslayer.ops.fused.backends import runs_triton
from crosslayer.ops.light_merge import head_gate
from crosslayer.ops.light_merge_norm import light_merge_norm, obstacle
from crosslayer.ops.normalisation import Normalisation, Pending
from crosslayer.ops.pooling import KnownPool, pool_of
from crosslayer.ops.query_key import ChannelKernel, query_key
from crosslayer.ops.residual_output import residual_output
from crosslayer.ops.selection import takes_fused
from crosslayer.ops.shapes import ChannelScale, HeadGate, Kernel, Map


class LightAttention(NamedTuple):
    """What light layer attention has in one block.

    Args:
        query: 1-D convolution over the channels, of odd length.
        key: likewise.
        value: depth-wise kernel K.
        head_channels: d, channels per head.
        scale: λ.
        stage_kernel: depth-wise kernel on the shortcut, to be multiplied with λ, if there is one.
        cell: DLA's recurrent cell; MRLA has none.
        norm: the normalisation of what is merged.
    """

    query: ChannelKernel
    key: ChannelKernel
    value: Kernel
    head_channels: int
    scale: ChannelScale
    stage_kernel: Kernel | None
    cell: DSU | None
    norm: Normalisation


class LightBlock(NamedTuple):
    """A block's output with its pool; the heads' gates, what is carried on, and with a cell the next context."""

    out: KnownPool
    gate: HeadGate
    carried: ChannelScale
    context: Context | None


def light_block(
    convolved: Map,
    shortcut: Pending,
    norm: Normalisation,
    attention: LightAttention,
    pool: KnownPool | None = None,
    context: Context | None = None,
) -> LightBlock:
    """From a block's last convolution c and its shortcut s to its output, and what its attention leaves behind.

    out = x + BN'(G ⊙ DW(x; K) + a ⊙ s + DW(s; λ ⊙ K_stage)), where

        x = ReLU(BN(c) + s),   G = σ(C1D(y) · C1D'(y) / √d) per head,   y = GAP(x)
        a = λ, or with a cell that steps its context on y and then refreshes GAP(s):   a = λ ⊙ σ(memory refreshed)

    Args:
        convolved: c.
        shortcut: s, or what it is the normalisation of.
        norm: BN.
        attention: everything else that has been learned.
        pool: a map and its pool, in case that map is the shortcut.
        context: the block's before; absent, the cell begins with zeros.
    """
    if not takes_light_block(convolved, shortcut.of, norm, attention):
        return reference(convolved, shortcut.done(), norm, attention, pool, context)
    added, added_norm = shortcut
    known = pool.pool if pool is not None and pool.of is added and added_norm is None else None
    *weights, cell, merged_norm = attention
    eight = [] if cell is None else [*cell.of_input, *cell.of_hidden]
    first, of_added, last = map(rows_and_epsilon, (norm, added_norm, merged_norm))
    before = (known, *(context or (None, None)))
    made = fused.light_block(convolved, added, *first, *of_added, *weights, eight, *before, *last)
    out, of_out, gate, carried, *after = made
    return LightBlock(KnownPool(out, of_out), gate, carried, None if cell is None else Context(*after))


def rows_and_epsilon(norm: Normalisation | None) -> tuple[list[Tensor], float]:
    """A normalisation as the op takes it; one that is not there has no rows."""
    return ([], 0.0) if norm is None else ([norm.weight, norm.bias, norm.running_mean, norm.running_var], norm.epsilon)


def reference(
    convolved: Map,
    shortcut: Map,
    norm: Normalisation,
    attention: LightAttention,
    pool: KnownPool | None,
    context: Context | None,
) -> LightBlock:
    """The same by the single ops."""
    x = residual_output(convolved, shortcut, norm)
    pooled = pool_of(x.of, x)
    gate = head_gate(*query_key(pooled, attention.query, attention.key), attention.head_channels)
    carried, kernel = attention.scale.expand_as(pooled), attention.stage_kernel
    if attention.cell is not None:
        context = attention.cell.context(pooled, context)
        carried = carried * torch.sigmoid(attention.cell.memory(pool_of(shortcut, pool), context))
    if kernel is not None:
        kernel = attention.scale[:, None, None, None] * kernel
    merged = light_merge_norm(x.of, shortcut, attention.value, gate, carried, kernel, attention.norm, pooled=True)
    return LightBlock(KnownPool(*merged), gate, carried, context)


def takes_light_block(convolved: Map, shortcut: Map, norm: Normalisation, attention: LightAttention) -> bool:
    """Whether `light_block` runs as one: on a CPU, where nothing is learned, with an image at least for every thread.

    Raises:
        ValueError: fused was asked for where no op can run fused.
    """
    training = torch.is_grad_enabled() or norm.training or attention.norm.training
    elsewhere = runs_triton(convolved) or torch.compiler.is_exporting()
    return (
        not (training or elsewhere)
        and convolved.dtype == shortcut.dtype
        and convolved.shape[0] >= threads()
        and obstacle(attention.value, attention.stage_kernel) is None
        and takes_fused("light_block", convolved)
    )


@torch.compiler.assume_constant_result
def threads() -> int:
    """How many work at an op; a graph being traced sees nothing of it."""
    return torch.get_num_threads()
