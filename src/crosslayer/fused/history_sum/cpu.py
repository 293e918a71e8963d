"""The passes of `history_sum` and `history_sum_norm`: calls of cpu.cpp."""

import ctypes

import torch
from torch import Tensor

from crosslayer.fused.batch_norm import Norm
from crosslayer.fused.cpu.normalisation import structure
from crosslayer.fused.cpu.types import address, addresses, call, lying, lying_as, size_of
from crosslayer.fused.layout import accumulator, exact


class History(ctypes.Structure):
    """`History` of history.h."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("factors", ctypes.c_void_p),
        ("layers", ctypes.c_int64),
    )


class Layers:
    """Stored layers as the functions take them: maps with channels side by side, factors in exact numbers.

    Holds what the addresses point to for as long as it lives.
    """

    def __init__(self, values: list[Tensor], factors: Tensor) -> None:
        self.maps, self.factors = [lying(value) for value in values], exact(factors, values[0])
        self.addresses = _address_array(self.maps)
        self.argument = History(ctypes.addressof(self.addresses), self.factors.data_ptr(), len(self.maps))


def weighted_sum(values: list[Tensor], factors: Tensor, start: Tensor | None) -> Tensor:
    """Σ_m f_m ⊙ V_m, plus for each image and channel what it starts with, if there is that."""
    layers = Layers(values, factors)
    out = torch.empty_like(layers.maps[0])
    call("history_sum", "weighted_sum", out.dtype, layers.argument, address(start), size_of(out), address(out))
    return lying_as(values[0], out)


def factor_gradients(gradient: Tensor, values: list[Tensor]) -> Tensor:
    """df_m = Σ dout ⊙ V_m over each image's map."""
    maps, gradient = [lying(value) for value in values], lying(gradient)
    batch, channels = gradient.shape[:2]
    out = gradient.new_empty((batch, len(maps), channels), dtype=accumulator(gradient))
    arguments = (address(gradient), _address_array(maps), ctypes.c_int64(len(maps)), size_of(gradient), address(out))
    call("history_sum", "factor_gradients", gradient.dtype, *arguments)
    return out


def _address_array(maps: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Of all of them."""
    return (ctypes.c_void_p * len(maps))(*(map_.data_ptr() for map_ in maps))


def moments(values: list[Tensor], factors: Tensor) -> tuple[Tensor, Tensor]:
    """o's mean and biased variance in every channel."""
    layers = Layers(values, factors)
    mean, variance = (layers.factors.new_empty(values[0].shape[1]) for _ in range(2))
    arguments = (layers.argument, size_of(values[0]), address(mean), address(variance))
    call("history_sum", "moments", values[0].dtype, *arguments)
    return mean, variance


def normalise(x: Tensor, values: list[Tensor], factors: Tensor, norm: Norm) -> Tensor:
    """x + keep · ReLU(w · (o - μ) / √(σ² + ε) + b)."""
    layers, map_ = Layers(values, factors), lying(x)
    out = torch.empty_like(map_)
    arguments = (address(map_), layers.argument, size_of(x), structure(norm), address(out))
    call("history_sum", "normalise", x.dtype, *arguments)
    return lying_as(x, out)


def norm_sums(gradient: Tensor, values: list[Tensor], factors: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """The first pass backward: Σ g and Σ g (o - μ) for each image and channel."""
    layers, gradient = Layers(values, factors), lying(gradient)
    plain, weighted = norm.mean.new_empty((2, *gradient.shape[:2])).unbind()
    given = (address(gradient), layers.argument, size_of(gradient), structure(norm))
    call("history_sum", "norm_sums", gradient.dtype, *given, address(plain), address(weighted))
    return plain, weighted


def norm_gradients(
    gradient: Tensor, values: list[Tensor], factors: Tensor, norm: Norm, through: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The second pass backward: do and df; `through` are dw and db as far as they pass through the statistics."""
    layers, gradient = Layers(values, factors), lying(gradient)
    of_sum, of_factors = torch.empty_like(gradient), torch.empty_like(layers.factors)
    given = (address(gradient), layers.argument, size_of(gradient), structure(norm), addresses(*through))
    call("history_sum", "norm_gradients", gradient.dtype, *given, address(of_sum), address(of_factors))
    return lying_as(values[0], of_sum), of_factors
