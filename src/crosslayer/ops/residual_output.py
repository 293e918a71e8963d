"""The end of a residual block: normalisation, addition to the shortcut, ReLU, and the pool that follows."""

import torch
import torch.nn.functional as F

from crosslayer.ops.fused import residual_output as fused
from crosslayer.ops.fused.backends import runs_triton
from crosslayer.ops.normalisation import Normalisation, check_count, move_running
from crosslayer.ops.pooling import KnownPool
from crosslayer.ops.selection import takes_fused
from crosslayer.ops.shapes import Map


def residual_output(x: Map, shortcut: Map, norm: Normalisation) -> KnownPool:
    """ReLU(BN(x) + s), and its global average pool where that costs nothing.

    On a GPU this is left to PyTorch, whose compiler makes the same passes of it, and so are maps of two dtypes.

    Raises:
        ValueError: statistics of a single value per channel are asked for, or fused where it cannot run.
    """
    if not takes_fused("residual_output", x) or runs_triton(x) or x.dtype != shortcut.dtype:
        return reference(x, shortcut, norm)
    mean, variance = batch_statistics(x, norm) if norm.training else (norm.running_mean, norm.running_var)
    rows = (norm.weight, norm.bias, mean, variance)
    return KnownPool(*fused.residual_output(x, shortcut, *rows, norm.epsilon, norm.training))


def reference(x: Map, shortcut: Map, norm: Normalisation) -> KnownPool:
    """In plain PyTorch."""
    statistics, affine = (norm.running_mean, norm.running_var), (norm.weight, norm.bias)
    branch = F.batch_norm(x, *statistics, *affine, norm.training, norm.momentum, norm.epsilon)
    return KnownPool((branch + shortcut).relu_())


def batch_statistics(x: Map, norm: Normalisation) -> tuple[torch.Tensor, torch.Tensor]:
    """x's mean and variance in every channel; moves the running ones as `batch_norm` does.

    Raises:
        ValueError: there is one value per channel only.
    """
    check_count(x)
    with torch.no_grad():
        mean, variance = fused.statistics(x.detach())
        move_running(norm, mean, variance, x)
    return mean, variance
