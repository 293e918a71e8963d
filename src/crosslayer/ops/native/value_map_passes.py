"""The two passes of `value_map`: calls of value_map.cpp."""

import torch
from torch import Tensor

from crosslayer.ops.fused.layout import accumulator, exact
from crosslayer.ops.fused.light_terms import Incoming, kernel_of, taps_of
from crosslayer.ops.native.normalisation import received
from crosslayer.ops.native.types import address, addresses, call, lying, lying_as, size_of


def convolve(x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """DW(x; K), and its sums over the maps."""
    map_, taps = lying(x), exact(taps_of(kernel), x)
    value, sums = torch.empty_like(map_), x.new_empty(x.shape[:2], dtype=accumulator(x))
    given = (address(map_), address(taps), size_of(x))
    call("value_map", "convolve", x.dtype, *given, address(value), address(sums))
    return lying_as(x, value), sums


def gradients(gradient: Incoming, x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Of x, and in the precision of the arithmetic of K."""
    gradient, map_, taps = received(gradient), lying(x), exact(taps_of(kernel), x)
    dx, products = torch.empty_like(map_), taps.new_empty(x.shape[0], *taps.shape)
    given = (addresses(*gradient), address(map_), address(taps), size_of(x))
    call("value_map", "gradients", x.dtype, *given, address(dx), address(products))
    return lying_as(x, dx), kernel_of(products.sum(0))
