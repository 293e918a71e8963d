"""The passes of `history_sum`: calls of history_sum.cpp."""

import ctypes

import torch
from torch import Tensor

from crosslayer.ops.fused.layout import accumulator, exact
from crosslayer.ops.native.types import address, call, lying, lying_as, size_of


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
        self.addresses = address_array(self.maps)
        self.argument = History(ctypes.addressof(self.addresses), self.factors.data_ptr(), len(self.maps))


def weighted_sum(values: list[Tensor], factors: Tensor) -> Tensor:
    """Σ_m f_m ⊙ V_m."""
    layers = Layers(values, factors)
    out = torch.empty_like(layers.maps[0])
    call("history_sum", "weighted_sum", out.dtype, layers.argument, size_of(out), address(out))
    return lying_as(values[0], out)


def factor_gradients(gradient: Tensor, values: list[Tensor]) -> Tensor:
    """df_m = Σ dout ⊙ V_m over each image's map."""
    maps, gradient = [lying(value) for value in values], lying(gradient)
    batch, channels = gradient.shape[:2]
    out = gradient.new_empty((batch, len(maps), channels), dtype=accumulator(gradient))
    arguments = (address(gradient), address_array(maps), ctypes.c_int64(len(maps)), size_of(gradient), address(out))
    call("history_sum", "factor_gradients", gradient.dtype, *arguments)
    return out


def address_array(maps: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Of all of them."""
    return (ctypes.c_void_p * len(maps))(*(map_.data_ptr() for map_ in maps))
