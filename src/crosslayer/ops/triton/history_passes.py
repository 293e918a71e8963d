"""The two passes of `history_sum`: launches of Triton's kernels.

The kernels take the maps' addresses as arguments, so nothing is copied to the device and CUDA graphs can hold them;
there is one specialisation for each number of layers. More than `MOST_LAYERS` are taken group by group.
"""

from typing import Any

import torch
from torch import Tensor

from crosslayer.ops.fused.layout import accumulator, channels_last, dense, layout_of, new_map
from crosslayer.ops.triton import history_kernels
from crosslayer.ops.triton.launch import ceil_divide, tile_of
from crosslayer.ops.triton.types import TRITON_TYPES

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
    values = alike(values)
    out = new_map(values[0])
    grid, sizes, options = launch(values, 1024)
    kernel: Any = history_kernels.forward_kernel
    kernel[grid](out, tuple(values), factors.contiguous(), *sizes, **options)
    return out


def factor_gradients_of_group(gradient: Tensor, values: list[Tensor]) -> Tensor:
    """One launch backward."""
    values = alike(values)
    batch, channels = values[0].shape[:2]
    gradient = gradient.contiguous(memory_format=layout_of(values[0]))
    grid, sizes, options = launch(values, 4096)
    partials = gradient.new_empty((grid[0], len(values), channels), dtype=accumulator(values[0]))
    kernel: Any = history_kernels.backward_kernel
    kernel[grid](gradient, tuple(values), partials, *sizes, **options)
    return partials.unflatten(0, (batch, sizes[2])).sum(1)


def alike(values: list[Tensor]) -> list[Tensor]:
    """All maps laid out as the first one."""
    first = dense(values[0])
    return [first, *(value.contiguous(memory_format=layout_of(first)) for value in values[1:])]


def launch(values: list[Tensor], elements: int) -> tuple[tuple[int, int], tuple[int, ...], dict[str, Any]]:
    """Grid, sizes and strides, and options of a launch with tiles of so many numbers."""
    x = values[0]
    batch, channels, height, width = x.shape
    size = height * width
    tile = tile_of(x, size, elements)
    strides = (channels * size, 1, channels) if channels_last(x) else (channels * size, size, 1)
    tiles = ceil_divide(size, tile.positions)
    grid = (batch * tiles, ceil_divide(channels, tile.channels))
    options = {
        "LAYERS": len(values),
        "POSITIONS": tile.positions,
        "CHANNELS": tile.channels,
        "ACC": TRITON_TYPES[accumulator(x)],
    }
    return grid, (size, channels, tiles, *strides), options
