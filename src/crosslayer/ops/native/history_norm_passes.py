"""The four passes of `history_sum_norm`: calls of history_norm.cpp."""

import torch
from torch import Tensor

from crosslayer.ops.fused.light_terms import Norm
from crosslayer.ops.native.history_passes import Layers
from crosslayer.ops.native.types import address, addresses, call, lying, lying_as, size_of


def moments(values: list[Tensor], factors: Tensor) -> tuple[Tensor, Tensor]:
    """o's mean and biased variance in every channel."""
    layers = Layers(values, factors)
    mean, variance = (layers.factors.new_empty(values[0].shape[1]) for _ in range(2))
    arguments = (layers.argument, size_of(values[0]), address(mean), address(variance))
    call("history_norm", "moments", values[0].dtype, *arguments)
    return mean, variance


def normalise(x: Tensor, values: list[Tensor], factors: Tensor, norm: Norm) -> Tensor:
    """x + keep · ReLU(w · (o - μ) / √(σ² + ε) + b)."""
    layers, affine, map_ = Layers(values, factors), slopes_and_shifts(x, norm), lying(x)
    out = torch.empty_like(map_)
    arguments = (address(map_), layers.argument, size_of(x), addresses(*affine), address(out))
    call("history_norm", "normalise", x.dtype, *arguments)
    return lying_as(x, out)


def norm_sums(gradient: Tensor, values: list[Tensor], factors: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """The first pass backward: Σ g and Σ g (o - μ) for each image and channel."""
    layers, affine, mean = Layers(values, factors), slopes_and_shifts(values[0], norm), norm.mean
    gradient = lying(gradient)
    plain, weighted = mean.new_empty((2, *gradient.shape[:2])).unbind()
    beginning = (address(gradient), layers.argument, size_of(gradient), addresses(*affine))
    call("history_norm", "norm_sums", gradient.dtype, *beginning, *map(address, (mean, plain, weighted)))
    return plain, weighted


def norm_gradients(
    gradient: Tensor, values: list[Tensor], factors: Tensor, norm: Norm, through: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The second pass backward: do and df; `through` are dw and db as far as they pass through the statistics."""
    layers, affine = Layers(values, factors), slopes_and_shifts(values[0], norm)
    gradient, slope = lying(gradient), norm.weight * norm.inverse
    count = max(gradient.shape[0] * gradient.shape[2] * gradient.shape[3], 1)  # an empty batch has none
    of_weight, of_bias = (one / count for one in through)
    alpha = norm.kept(slope.expand(gradient.shape[:2])).contiguous()
    rows = (alpha, slope * of_bias, slope * of_weight * norm.inverse, norm.mean)
    of_sum, of_factors = torch.empty_like(gradient), torch.empty_like(layers.factors)
    arguments = (address(gradient), layers.argument, size_of(gradient), addresses(*affine), addresses(*rows))
    call("history_norm", "norm_gradients", gradient.dtype, *arguments, address(of_sum), address(of_factors))
    return lying_as(values[0], of_sum), of_factors


def slopes_and_shifts(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """What turns o into keep · (w · (o - μ) / √(σ² + ε) + b), for each image and channel."""
    assert norm.bias is not None
    slope = norm.weight * norm.inverse
    rows = (norm.kept(row.expand(x.shape[:2])) for row in (slope, norm.bias - norm.mean * slope))
    slopes, shifts = (row.contiguous() for row in rows)
    return slopes, shifts
