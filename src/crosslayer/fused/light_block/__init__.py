"""A whole block's end with light layer attention: normalisation, shortcut, pool, attention, merge, and pool again."""

from typing import NamedTuple

import torch
from torch import Tensor

from crosslayer.fused.batch_norm import BatchNorm
from crosslayer.fused.light_block import autograd
from crosslayer.fused.support import runs_triton, unsupported_kernel
from crosslayer.ops.shapes import ChannelScale, HeadGate, Kernel, Map, Vector


class LightAttention(NamedTuple):
    """What light layer attention has in one block.

    Args:
        query: 1 × 1 × window, a convolution over the channels, of odd length.
        key: likewise.
        value: depth-wise kernel K, 3×3.
        head_channels: d, channels per head.
        scale: λ, per channel.
        stage_kernel: depth-wise kernel on the shortcut, to be multiplied with λ, if there is one.
        cell: DLA's: W₁, b₁, W₂, b₂ of what it makes of its input, then of its hidden vector; MRLA has none.
        norm: BN', the normalisation of what is merged.
    """

    query: Tensor
    key: Tensor
    value: Kernel
    head_channels: int
    scale: ChannelScale
    stage_kernel: Kernel | None
    cell: list[Tensor] | None
    norm: BatchNorm


class LightBlock(NamedTuple):
    """A block's output with its pool; the heads' gates, what is carried on, and the cell's state, if there is a cell.

    `context` is what the cell makes of its hidden vector (batch × 3 channels), and its memory (batch × channels).
    """

    out: Map
    pool: Vector
    gate: HeadGate
    carried: ChannelScale
    context: tuple[Tensor, Tensor] | None


def light_block(
    convolved: Map,
    shortcut: Map,
    norm: BatchNorm,
    attention: LightAttention,
    shortcut_norm: BatchNorm | None = None,
    shortcut_pool: Vector | None = None,
    context: tuple[Tensor, Tensor] | None = None,
) -> LightBlock:
    """From a block's last convolution c and its shortcut s to its output, and what its attention leaves behind.

    out = x + BN'(G ⊙ DW(x; K) + a ⊙ s + DW(s; λ ⊙ K_stage)), where

        x = ReLU(BN(c) + s),   G = σ(C1D(y) · C1D'(y) / √d) per head,   y = GAP(x)
        a = λ, or with a cell that steps its context on y and then refreshes GAP(s):   a = λ ⊙ σ(memory refreshed)

    It has no gradient, and both normalisations use what is known beforehand: see `light_block_reason`.

    Args:
        convolved: c.
        shortcut: s, or what it is the normalisation of.
        norm: BN.
        attention: everything else that has been learned.
        shortcut_norm: makes s of the shortcut, if that is still to be done.
        shortcut_pool: GAP(s), if it is known.
        context: the cell's state before; absent, it begins with zeros.
    """
    *weights, cell, merged_norm = attention
    first, of_shortcut, last = map(_rows_and_epsilon, (norm, shortcut_norm, merged_norm))
    before = (shortcut_pool, *(context or (None, None)))
    made = autograd.light_block(convolved, shortcut, *first, *of_shortcut, *weights, cell or [], *before, *last)
    out, pool, gate, carried, *after = made
    return LightBlock(out, pool, gate, carried, None if cell is None else (after[0], after[1]))


def light_block_reason(convolved: Map, shortcut: Map, norm: BatchNorm, attention: LightAttention) -> str | None:
    """Why `light_block` cannot take these, besides `unsupported_reason` of the convolved map; None where it can."""
    if torch.is_grad_enabled():
        return "gradients are on"
    if norm.training or attention.norm.training:
        return "a normalisation is in training mode"
    if runs_triton(convolved):
        return "whole blocks have passes for the CPU only"
    if convolved.dtype != shortcut.dtype:
        return f"the shortcut is in {shortcut.dtype}, and what is added to it in {convolved.dtype}"
    if convolved.shape[0] < _threads():
        return "there are fewer images than threads"
    return unsupported_kernel(attention.value, attention.stage_kernel)


def _rows_and_epsilon(norm: BatchNorm | None) -> tuple[list[Tensor], float]:
    """As the op takes it; one that is not there has no rows."""
    return ([], 0.0) if norm is None else ([*norm.affine(), norm.running_mean, norm.running_var], norm.epsilon)


@torch.compiler.assume_constant_result
def _threads() -> int:
    """How many work at an op; a graph being traced sees nothing of it."""
    return torch.get_num_threads()
