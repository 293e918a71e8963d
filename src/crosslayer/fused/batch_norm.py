"""Batch normalisation as the ops take it: its vectors, and what it does with a batch's statistics."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from crosslayer.fused.layout import count_of, exact
from crosslayer.ops.shapes import Map

Keep = Float[Tensor, "batch 1 1 1"]
"""What DropPath multiplies each image's branch with."""


class BatchNorm(NamedTuple):
    """What batch normalisation needs, as in `torch.nn.functional.batch_norm`.

    Args:
        weight: w, per channel; absent, ones.
        bias: b, per channel; absent, zeros.
        running_mean: μ known beforehand; with `training`, moved in place towards the batch's mean.
        running_var: σ² likewise, towards the batch's unbiased variance.
        training: whether the batch's own statistics are used.
        momentum: how far the running statistics move, from 0 to 1.
        epsilon: ε, added to the variance.
    """

    weight: Float[Tensor, " channels"] | None
    bias: Float[Tensor, " channels"] | None
    running_mean: Float[Tensor, " channels"]
    running_var: Float[Tensor, " channels"]
    training: bool = False
    momentum: float = 0.1
    epsilon: float = 1e-5

    def affine(self) -> tuple[Tensor, Tensor]:
        """w and b."""
        weight = torch.ones_like(self.running_mean) if self.weight is None else self.weight
        return weight, torch.zeros_like(weight) if self.bias is None else self.bias

    def known_stats(self) -> tuple[Tensor, Tensor]:
        """μ and σ² known beforehand; copies where a backward pass may need them after they have moved."""
        if torch.is_grad_enabled():
            return self.running_mean.clone(), self.running_var.clone()
        return self.running_mean, self.running_var


def batch_stats(x: Map, norm: BatchNorm, moments: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """A batch's mean and biased variance, and what else `moments` gives; moves the running ones as `batch_norm` does.

    Args:
        x: a map of the size that is normalised.
        norm: with the running statistics.
        moments: computes them, without gradient.

    Raises:
        ValueError: there is one value per channel only.
    """
    count = count_of(x)
    if count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
    with torch.no_grad():
        mean, variance, *others = moments()
        if count:
            unbiased = variance * (count / (count - 1))
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
    return mean, variance, *others


class Norm(NamedTuple):
    """A normalisation's affine map and statistics, and each image's keep factor, in the precision of the arithmetic."""

    weight: Tensor
    bias: Tensor | None
    """Not needed backward."""
    mean: Tensor
    variance: Tensor
    keep: Tensor | None
    epsilon: float

    def exact(self, x: Tensor) -> "Norm":
        """In the precision of the arithmetic on maps like x."""
        bias, keep = (None if one is None else exact(one, x) for one in (self.bias, self.keep))
        weight, mean, variance = (exact(one, x) for one in (self.weight, self.mean, self.variance))
        return Norm(weight, bias, mean, variance, keep, self.epsilon)

    @property
    def inverse(self) -> Tensor:
        """1 / √(σ² + ε)."""
        return (self.variance + self.epsilon).rsqrt()

    def kept(self, rows: Tensor) -> Tensor:
        """Every image's row (batch × channels) times its keep factor."""
        return rows if self.keep is None else self.keep.view(-1, 1) * rows

    def affine_gradients(self, plain: Tensor, weighted: Tensor) -> tuple[Tensor, Tensor]:
        """Of weight and bias, from each image's Σ g and Σ g (z - μ), with g the gradient of what is normalised."""
        return self.kept(weighted).sum(0) * self.inverse, self.kept(plain).sum(0)


def norm_of(rows: list[Tensor], epsilon: float, x: Tensor) -> Norm:
    """Of weight, bias, mean and variance, every image kept, in the precision of the arithmetic on maps like x."""
    weight, bias, mean, variance = rows
    return Norm(weight, bias, mean, variance, None, epsilon).exact(x)


def through_statistics(affine: tuple[Tensor, Tensor], own: bool) -> tuple[Tensor, Tensor]:
    """The gradients of weight and bias as far as they pass through the statistics: in full where these are own."""
    of_weight, of_bias = affine
    return affine if own else (torch.zeros_like(of_weight), torch.zeros_like(of_bias))


class Incoming(NamedTuple):
    """The gradient that comes in: of the output's map, and what its pool's adds to every position."""

    map: Tensor
    everywhere: Tensor
    """Batch × channels, one row after the other, in the precision of the arithmetic."""
