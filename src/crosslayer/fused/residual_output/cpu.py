"""The four passes of `residual_output`: calls of cpu.cpp."""

import torch
from torch import Tensor

from crosslayer.fused.batch_norm import Incoming, Norm
from crosslayer.fused.cpu.normalisation import received, structure
from crosslayer.fused.cpu.types import address, addresses, call, lying, lying_as, size_of
from crosslayer.fused.layout import accumulator


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of x in every channel."""
    x = lying(x)
    mean, variance = (x.new_empty(x.shape[1], dtype=accumulator(x)) for _ in range(2))
    call("residual_output", "moments", x.dtype, address(x), size_of(x), address(mean), address(variance))
    return mean, variance


def output(x: Tensor, shortcut: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """ReLU(w · (x - μ) / √(σ² + ε) + b + s), and its sums over the maps."""
    return _written(x, shortcut, norm, (None, None))


def counted_output(x: Tensor, shortcut: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Likewise; and where the output is above zero, its count and Σ (x - μ) for each image and channel: 2 × B × C."""
    above = norm.mean.new_empty((2, *x.shape[:2]))
    return *_written(x, shortcut, norm, above.unbind()), above


def _written(x: Tensor, shortcut: Tensor, norm: Norm, above: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor]:
    """The pass that both make."""
    map_, added = lying(x), lying(shortcut)
    out, sums = torch.empty_like(map_), norm.mean.new_empty(x.shape[:2])
    given = (address(map_), address(added), size_of(x), structure(norm))
    call("residual_output", "output", x.dtype, *given, address(out), address(sums), addresses(*above))
    return lying_as(x, out), sums


def norm_sums(gradient: Incoming, x: Tensor, shortcut: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """The first pass backward: Σ g and Σ g (x - μ) for each image and channel."""
    gradient, x, added = received(gradient), lying(x), lying(shortcut)
    plain, weighted = norm.mean.new_empty((2, *x.shape[:2])).unbind()
    given = (addresses(*gradient), address(x), address(added), size_of(x), structure(norm))
    call("residual_output", "norm_sums", x.dtype, *given, address(plain), address(weighted))
    return plain, weighted


def gradients(
    gradient: Incoming,
    x: Tensor,
    shortcut: Tensor,
    known: Tensor | None,
    of_shortcut_pool: Tensor | None,
    norm: Norm,
    through: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """The second pass backward: dx, and ds with what is `known` of it added, and what its pool adds everywhere.

    `through` are dw and db as far as they pass through the statistics.
    """
    gradient, map_, added = received(gradient), lying(x), lying(shortcut)
    known = known if known is None else lying(known)
    dx, ds = torch.empty_like(map_), torch.empty_like(map_)
    maps = map(address, (map_, added, known, of_shortcut_pool))
    given = (addresses(*gradient), *maps, size_of(x), structure(norm), addresses(*through))
    call("residual_output", "gradients", x.dtype, *given, address(dx), address(ds))
    return lying_as(x, dx), lying_as(x, ds)
