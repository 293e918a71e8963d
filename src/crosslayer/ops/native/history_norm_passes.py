"""The four passes of `history_sum_norm`: calls of history_norm.cpp."""

import torch
from torch import Tensor

from crosslayer.ops.fused.light_terms import Norm
from crosslayer.ops.native.history_passes import Layers
from crosslayer.ops.native.normalisation import structure
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
    layers, map_ = Layers(values, factors), lying(x)
    out = torch.empty_like(map_)
    arguments = (address(map_), layers.argument, size_of(x), structure(norm), address(out))
    call("history_norm", "normalise", x.dtype, *arguments)
    return lying_as(x, out)


def norm_sums(gradient: Tensor, values: list[Tensor], factors: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """The first pass backward: Σ g and Σ g (o - μ) for each image and channel."""
    layers, gradient = Layers(values, factors), lying(gradient)
    plain, weighted = norm.mean.new_empty((2, *gradient.shape[:2])).unbind()
    given = (address(gradient), layers.argument, size_of(gradient), structure(norm))
    call("history_norm", "norm_sums", gradient.dtype, *given, address(plain), address(weighted))
    return plain, weighted


def norm_gradients(
    gradient: Tensor, values: list[Tensor], factors: Tensor, norm: Norm, through: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The second pass backward: do and df; `through` are dw and db as far as they pass through the statistics."""
    layers, gradient = Layers(values, factors), lying(gradient)
    of_sum, of_factors = torch.empty_like(gradient), torch.empty_like(layers.factors)
    given = (address(gradient), layers.argument, size_of(gradient), structure(norm), addresses(*through))
    call("history_norm", "norm_gradients", gradient.dtype, *given, address(of_sum), address(of_factors))
    return lying_as(values[0], of_sum), of_factors
