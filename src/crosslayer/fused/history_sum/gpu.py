"""The two passes of `history_sum`: launches of Triton's kernels.

The kernels take the maps' addresses as arguments, so nothing is copied to the device and CUDA graphs can hold them;
there is one specialisation for each number of layers. More than `MOST_LAYERS` are taken group by group.
"""

import torch
from torch import Tensor

from crosslayer.fused.gpu.arguments import gathered
from crosslayer.fused.gpu.launch import launch_along, tiles
from crosslayer.fused.history_sum.kernels import backward_kernel, forward_kernel
from crosslayer.fused.layout import accumulator, alike, dense, new_map

MOST_LAYERS = 64
"""In one launch: a kernel's arguments have 4 KB, an address for each layer among them."""


def weighted_sum(values: list[Tensor], factors: Tensor, start: Tensor | None) -> Tensor:
    """Σ_m f_m ⊙ V_m, plus for each image and channel what it starts with, if there is that."""
    starts = [start, *[None] * len(values)]
    parts = [
        _sum_of_group(values[group], factors[:, group], one)
        for group, one in zip(_groups(values), starts, strict=False)
    ]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def factor_gradients(gradient: Tensor, values: list[Tensor]) -> Tensor:
    """df_m = Σ dout ⊙ V_m over each image's map."""
    return torch.cat([_factor_gradients_of_group(gradient, values[group]) for group in _groups(values)], dim=1)


def _groups(values: list[Tensor]) -> list[slice]:
    """Layers that go into one launch."""
    return [slice(first, first + MOST_LAYERS) for first in range(0, len(values), MOST_LAYERS)]


def _sum_of_group(values: list[Tensor], factors: Tensor, start: Tensor | None) -> Tensor:
    """One launch forward."""
    values = _all_alike(values)
    x, out = values[0], new_map(values[0])
    factors = factors.contiguous()
    arguments = (out, tuple(values), factors, factors if start is None else start)
    flags = {"LAYERS": len(values), "HAS_START": start is not None}
    launch_along(forward_kernel, tiles(x, 1024), x, *arguments, **flags)
    return out


def _factor_gradients_of_group(gradient: Tensor, values: list[Tensor]) -> Tensor:
    """One launch backward."""
    values = _all_alike(values)
    x = values[0]
    launch = tiles(x, 4096)
    partials = gradient.new_empty((launch.programs, len(values), x.shape[1]), dtype=accumulator(x))
    launch_along(backward_kernel, launch, x, alike(gradient, x), tuple(values), partials, LAYERS=len(values))
    return gathered(partials, launch)


def _all_alike(values: list[Tensor]) -> list[Tensor]:
    """All maps laid out as the first one."""
    first = dense(values[0])
    return [first, *(alike(value, first) for value in values[1:])]
