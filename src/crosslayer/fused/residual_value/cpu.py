"""The passes of `residual_value` that are its own: calls of cpu.cpp."""

import torch
from torch import Tensor

from crosslayer.fused.batch_norm import Incoming, Norm
from crosslayer.fused.cpu.normalisation import received, structure
from crosslayer.fused.cpu.types import address, addresses, call, lying, lying_as, size_of
from crosslayer.fused.layout import accumulator, exact, kernel_of, taps_of


def convolve(x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """DW(x; K), and its sums over the maps."""
    map_, taps = lying(x), exact(taps_of(kernel), x)
    value, sums = torch.empty_like(map_), x.new_empty(x.shape[:2], dtype=accumulator(x))
    call("residual_value", "convolve", x.dtype, address(map_), address(taps), size_of(x), address(value), address(sums))
    return lying_as(x, value), sums


def gradients(
    of_out: Incoming, of_value: Incoming, x: Tensor, shortcut: Tensor, norm: Norm, kernel: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """The first: g, which is ds too; Σ g and Σ g (x - μ) for each image and channel; dK in exact numbers."""
    of_out, of_value = received(of_out), received(of_value)
    map_, added, taps = lying(x), lying(shortcut), exact(taps_of(kernel), x)
    of_shortcut, products = torch.empty_like(map_), taps.new_empty(x.shape[0], *taps.shape)
    plain, weighted = taps.new_empty((2, *x.shape[:2])).unbind()
    maps = addresses(map_, added, *of_out, of_shortcut, plain, weighted)
    given = (addresses(*of_value), maps, address(taps), size_of(x), structure(norm))
    call("residual_value", "gradients", x.dtype, *given, address(products))
    return lying_as(x, of_shortcut), (plain, weighted), kernel_of(products.sum(0))


def norm_gradient(g: Tensor, x: Tensor, norm: Norm, through: tuple[Tensor, Tensor]) -> Tensor:
    """The second: dx; `through` are dw and db as far as they pass through the statistics."""
    g, map_ = lying(g), lying(x)
    dx = torch.empty_like(map_)
    given = (address(g), address(map_), size_of(x), structure(norm), addresses(*through))
    call("residual_value", "norm_gradient", x.dtype, *given, address(dx))
    return lying_as(x, dx)
