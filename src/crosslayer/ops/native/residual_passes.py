"""The four passes of `residual_output`: calls of residual.cpp."""

import torch
from torch import Tensor

from crosslayer.ops.fused.layout import accumulator
from crosslayer.ops.fused.light_terms import Incoming, Norm
from crosslayer.ops.native.normalisation import received, structure
from crosslayer.ops.native.types import address, addresses, call, lying, lying_as, size_of


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of x in every channel."""
    x = lying(x)
    mean, variance = (x.new_empty(x.shape[1], dtype=accumulator(x)) for _ in range(2))
    call("residual", "moments", x.dtype, address(x), size_of(x), address(mean), address(variance))
    return mean, variance


def output(x: Tensor, shortcut: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """ReLU(w · (x - μ) / √(σ² + ε) + b + s), and its sums over the maps."""
    map_, added = lying(x), lying(shortcut)
    out, sums = torch.empty_like(map_), norm.mean.new_empty(x.shape[:2])
    given = (address(map_), address(added), size_of(x), structure(norm))
    call("residual", "output", x.dtype, *given, address(out), address(sums))
    return lying_as(x, out), sums


def gradients(
    gradient: Incoming, out: Tensor, x: Tensor, norm: Norm, *, own: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of x, the shortcut, w and b, in two passes; with `own`, μ and σ² are x's own."""
    gradient, maps = received(gradient), (lying(out), lying(x))
    given = (addresses(*gradient), *map(address, maps), size_of(x), structure(norm))
    plain, weighted = norm.mean.new_empty((2, *x.shape[:2])).unbind()
    call("residual", "norm_sums", x.dtype, *given, address(plain), address(weighted))
    of_weight, of_bias = weighted.sum(0) * norm.inverse, plain.sum(0)
    through = (of_weight, of_bias) if own else (torch.zeros_like(of_weight), torch.zeros_like(of_bias))
    dx, ds = torch.empty_like(maps[1]), torch.empty_like(maps[1])
    call("residual", "gradients", x.dtype, *given, addresses(*through), address(dx), address(ds))
    return lying_as(x, dx), lying_as(x, ds), of_weight, of_bias
