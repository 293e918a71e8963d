"""The end of a residual block: normalisation, addition to the shortcut, ReLU, and the pool that follows."""

from torch import Tensor

from crosslayer.ops.fused import residual_output as fused
from crosslayer.ops.normalisation import Normalisation, batch_norm, batch_statistics
from crosslayer.ops.pooling import KnownPool
from crosslayer.ops.selection import takes_fused
from crosslayer.ops.shapes import Map


def residual_output(x: Map, shortcut: Map, norm: Normalisation) -> KnownPool:
    """ReLU(BN(x) + s), and its global average pool where that costs nothing.

    Maps of two dtypes are left to PyTorch.

    Raises:
        ValueError: statistics of a single value per channel are asked for, or fused where it cannot run.
    """
    if not takes_fused("residual_output", x) or x.dtype != shortcut.dtype:
        return reference(x, shortcut, norm)
    rows = (norm.weight, norm.bias, *known_statistics(x, norm))
    out, pool, _, *claims = fused.residual_output(x, shortcut, *rows, norm.epsilon, norm.training)
    made_of = [one.detach() for one in (x, *rows)]
    return KnownPool(out, pool, fused.Ending(shortcut, made_of, norm.epsilon, fused.Claims(*claims)))


def known_statistics(x: Map, norm: Normalisation) -> tuple[Tensor, ...]:
    """Mean and biased variance that x is normalised with: the batch's own in training, which moves the running ones."""
    if norm.training:
        return batch_statistics(x, norm, lambda: fused.statistics(x.detach()))
    return norm.running_mean, norm.running_var


def reference(x: Map, shortcut: Map, norm: Normalisation) -> KnownPool:
    """In plain PyTorch."""
    return KnownPool((batch_norm(x, norm) + shortcut).relu_())
