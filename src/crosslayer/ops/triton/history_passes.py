"""The two passes of `history_sum`: launches of Triton's kernels.

The kernels take the maps' addresses as arguments, so nothing is copied to the device and CUDA graphs can hold them;
there is one specialisation for each number of layers. More than `MOST_LAYERS` are taken group by group.
"""

import torch
from torch import Tensor

from crosslayer.ops.fused.layout import accumulator, dense, new_map
from crosslayer.ops.triton.arguments import alike, gathered
from crosslayer.ops.triton.history_kernels import backward_kernel, forward_kernel
from crosslayer.ops.triton.launch import launch_along, tiles

MOST_LAYERS = 64
"""In one launch: a kernel's arguments have 4 KB, an address for each layer among them."""


def weighted_sum(values: list[Tensor], factors: Tensor) -> Tensor:
    """Σ_m f_m ⊙ V_m."""
    parts = [sum_of_group(values[group], factors[:, group]) for group in groups(values)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def factor_gradients(gradient: Tensor, values: list[Tensor]) -> Tensor:
    """df_m = Σ dout ⊙ V_m over each image's map."""
    return torch.cat([factor_gradients_of_group(gradient, values[group]) for group in groups(values)], dim=1)


def groups(values: list[Tensor]) -> list[slice]:
    """Layers that go into one launch."""
    return [slice(first, first + MOST_LAYERS) for first in range(0, len(values), MOST_LAYERS)]


def sum_of_group(values: list[Tensor], factors: Tensor) -> Tensor:
    """One launch forward."""
    values = all_alike(values)
    x, out = values[0], new_map(values[0])
    arguments = (out, tuple(values), factors.contiguous())
    launch_along(forward_kernel, tiles(x, 1024), x, *arguments, LAYERS=len(values))
    return out


def factor_gradients_of_group(gradient: Tensor, values: list[Tensor]) -> Tensor:
    """One launch backward."""
    values = all_alike(values)
    x = values[0]
    launch = tiles(x, 4096)
    partials = gradient.new_empty((launch.programs, len(values), x.shape[1]), dtype=accumulator(x))
    launch_along(backward_kernel, launch, x, alike(gradient, x), tuple(values), partials, LAYERS=len(values))
    return gathered(partials, launch)


def all_alike(values: list[Tensor]) -> list[Tensor]:
    """All maps laid out as the first one."""
    first = dense(values[0])
    return [first, *(alike(value, first) for value in values[1:])]
