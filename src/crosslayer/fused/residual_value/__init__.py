"""The end of a residual block with the value that the B forms make of its output."""

from typing import NamedTuple

from crosslayer.fused.batch_norm import BatchNorm
from crosslayer.fused.residual_output import block_stats
from crosslayer.fused.residual_value import autograd
from crosslayer.ops.shapes import Kernel, Map, Vector


class ResidualValue(NamedTuple):
    """A block's output and value, with their pools.

    Args:
        out: ReLU(BN(x) + s).
        pool: GAP(out). Its gradient goes to what the output was made of, not to `out`: keep that to yourself.
        value: V = DW(out; K).
        value_pool: GAP(V), a number without gradient: `store` makes it a function of V.
    """

    out: Map
    pool: Vector
    value: Map
    value_pool: Vector


def residual_value(x: Map, shortcut: Map, norm: BatchNorm, kernel: Kernel) -> ResidualValue:
    """ReLU(BN(x) + s) and V = DW(ReLU(BN(x) + s); K) with zeros around it, and their global average pools.

    Together they keep two maps for the backward pass, x and s; one after the other, three: the output too.

    Args:
        x: what the block's last convolution made.
        shortcut: s, of the same dtype.
        norm: BN.
        kernel: K, depth-wise and 3×3.

    Raises:
        ValueError: statistics of a single value per channel are asked for.
    """
    rows = (*norm.affine(), *block_stats(x, norm), kernel)
    out, pool, value, value_pool = autograd.residual_value(x, shortcut, *rows, norm.epsilon, norm.training)
    return ResidualValue(out, pool, value, value_pool.detach())
