"""The end of a residual block: normalisation, addition to the shortcut, ReLU, and the pools on both sides of it."""

from typing import NamedTuple

from torch import Tensor

from crosslayer.fused.batch_norm import BatchNorm, batch_stats
from crosslayer.fused.residual_output import autograd
from crosslayer.fused.residual_output.autograd import GradientParts
from crosslayer.ops.shapes import Map, Vector

__all__ = ["Ending", "GradientParts", "ResidualOutput", "block_stats", "residual_output"]


class Ending(NamedTuple):
    """How an output was made, for the one merge that makes it anew, and where that sends gradients in parts."""

    made_of: list[Tensor]
    """The normalisation's input, w, b, μ and σ²."""
    epsilon: float
    parts: GradientParts


class ResidualOutput(NamedTuple):
    """A block's output with its pool.

    Args:
        out: ReLU(BN(x) + s).
        pool: GAP(out). Its gradient goes to what the output was made of, not to `out`: keep that to yourself.
        shortcut_pool: GAP(s), a function of s, where its value was given.
        ending: for `light_merge` of this output and shortcut, once.
    """

    out: Map
    pool: Vector
    shortcut_pool: Vector | None
    ending: Ending


def residual_output(x: Map, shortcut: Map, norm: BatchNorm, shortcut_pool: Vector | None = None) -> ResidualOutput:
    """ReLU(BN(x) + s) with its global average pool.

    Args:
        x: what the block's last convolution made.
        shortcut: s, of the same dtype.
        norm: BN.
        shortcut_pool: the known value of GAP(s); it gets no gradient, but the same numbers come out as a function of s.

    Raises:
        ValueError: statistics of a single value per channel are asked for.
    """
    rows = (*norm.affine(), *block_stats(x, norm))
    known = None if shortcut_pool is None else shortcut_pool.detach()
    out, pool, of_shortcut, _, *parts = autograd.residual_output(x, shortcut, *rows, known, norm.epsilon, norm.training)
    ending = Ending([one.detach() for one in (x, *rows)], norm.epsilon, GradientParts(*parts))
    return ResidualOutput(out, pool, None if known is None else of_shortcut, ending)


def block_stats(x: Map, norm: BatchNorm) -> tuple[Tensor, ...]:
    """Mean and biased variance that x is normalised with: the batch's own in training, which moves the running ones."""
    if norm.training:
        return batch_stats(x, norm, lambda: autograd.statistics(x.detach()))
    return norm.known_stats()
