"""Batch normalisation as the ops take it: its vectors, and what it does with a batch's statistics."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crosslayer.ops.shapes import Map


class Normalisation(NamedTuple):
    """What batch normalisation needs, as in `torch.nn.functional.batch_norm`.

    Args:
        weight: w, per channel.
        bias: b, per channel.
        running_mean: μ known beforehand; with `training`, moved in place towards the batch's mean.
        running_var: σ² likewise, towards the batch's unbiased variance.
        training: whether the batch's own statistics are used.
        momentum: how far the running statistics move, from 0 to 1.
        epsilon: ε, added to the variance.
    """

    weight: Float[Tensor, " channels"]
    bias: Float[Tensor, " channels"]
    running_mean: Float[Tensor, " channels"]
    running_var: Float[Tensor, " channels"]
    training: bool
    momentum: float
    epsilon: float


Keep = Float[Tensor, "batch 1 1 1"]
"""What DropPath multiplies each image's branch with."""


def batch_norm(x: Map, norm: Normalisation) -> Map:
    """In plain PyTorch."""
    statistics, affine = (norm.running_mean, norm.running_var), (norm.weight, norm.bias)
    return F.batch_norm(x, *statistics, *affine, norm.training, norm.momentum, norm.epsilon)


class Pending(NamedTuple):
    """A map whose normalisation, if it has one, is left to those who read it."""

    of: Map
    norm: Normalisation | None = None

    def done(self) -> Map:
        """The map as it is meant."""
        return self.of if self.norm is None else batch_norm(self.of, self.norm)


def batch_statistics(x: Map, norm: Normalisation, moments: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """A batch's mean and biased variance, and what else `moments` gives; moves the running ones as `batch_norm` does.

    Args:
        x: a map of the size that is normalised.
        norm: with the running statistics.
        moments: computes them, without gradient.

    Raises:
        ValueError: there is one value per channel only.
    """
    check_count(x)
    with torch.no_grad():
        mean, variance, *others = moments()
        move_running(norm, mean, variance, x)
    return mean, variance, *others


def check_count(x: Map) -> None:
    """Raises ValueError, as PyTorch does, if there is one value per channel only."""
    if x.shape[0] * x.shape[2] * x.shape[3] == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")


def move_running(norm: Normalisation, mean: Tensor, variance: Tensor, x: Map) -> None:
    """Moves the running statistics towards those of a batch of maps like x, as `batch_norm` does."""
    count = x.shape[0] * x.shape[2] * x.shape[3]
    if count:
        unbiased = variance * (count / (count - 1))
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
        norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
