"""The two passes of `history_sum`: calls of history_sum.cpp."""

import ctypes

import torch
from torch import Tensor

from crosslayer.ops.fused.layout import accumulator
from crosslayer.ops.native.types import address, call, lying, lying_as, size_of


def weighted_sum(values: list[Tensor], factors: Tensor) -> Tensor:
    """Σ_m f_m ⊙ V_m."""
    maps, rows = [lying(value) for value in values], exact(factors, values[0])
    out = torch.empty_like(maps[0])
    arguments = (address_array(maps), address(rows), ctypes.c_int64(len(maps)), size_of(out), address(out))
    call("history_sum", "weighted_sum", out.dtype, *arguments)
    return lying_as(values[0], out)


def gradients(gradient: Tensor, values: list[Tensor], factors: Tensor) -> tuple[list[Tensor], Tensor]:
    """dV_m and df."""
    maps, rows, gradient = [lying(value) for value in values], exact(factors, values[0]), lying(gradient)
    value_gradients, factor_gradients = [torch.empty_like(map_) for map_ in maps], torch.empty_like(rows)
    arguments = (address_array(maps), address(rows), ctypes.c_int64(len(maps)), size_of(gradient))
    outputs = (address_array(value_gradients), address(factor_gradients))
    call("history_sum", "gradients", gradient.dtype, address(gradient), *arguments, *outputs)
    return [lying_as(values[0], one) for one in value_gradients], factor_gradients


def address_array(maps: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Of all of them."""
    return (ctypes.c_void_p * len(maps))(*(map_.data_ptr() for map_ in maps))


def exact(factors: Tensor, x: Tensor) -> Tensor:
    """In the precision of the arithmetic, number beside number."""
    return factors.to(accumulator(x)).contiguous()
