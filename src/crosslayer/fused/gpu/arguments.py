"""Tensors as Triton's kernels take them, and what programs leave behind put together."""

from torch import Tensor

from crosslayer.fused.batch_norm import Norm
from crosslayer.fused.gpu.launch import Plan
from crosslayer.fused.layout import accumulator


def rows(norm: Norm) -> tuple[Tensor, ...]:
    """w, b, μ and σ²; where b is not needed, something that may be read."""
    return norm.weight, norm.weight if norm.bias is None else norm.bias, norm.mean, norm.variance


def gathered(partials: Tensor, launch: Plan) -> Tensor:
    """What an image's programs have gathered, added."""
    return partials.unflatten(0, (launch.programs // launch.chunks, launch.chunks)).sum(1)


def together(partials: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of all, from each program's count, mean and sum of squared deviations."""
    counts, means, deviations = partials.unbind()
    total = counts.sum(0).clamp_min(1)  # an empty batch has none
    mean = (counts * means).sum(0) / total
    return mean, (deviations + counts * (means - mean).square()).sum(0) / total


def moments_of(x: Tensor, launch: Plan) -> Tensor:
    """Memory for `together`."""
    return x.new_empty((3, launch.programs, x.shape[1]), dtype=accumulator(x))
