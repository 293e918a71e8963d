"""`history_sum` as one kernel forward and one backward, for all stored layers together.

Moved per call, in maps: forward T reads and 1 write; backward T + 1 reads and T writes. Nothing is kept for the
backward pass but the inputs.

The kernels take the maps' addresses as arguments, so nothing is copied to the device and CUDA graphs can hold them;
there is one specialisation for each number of layers. More than `MOST_LAYERS` are summed group by group.
"""

from typing import Any

import torch
from torch import Tensor

from crosslayer.ops.fused.maps import accumulator, ceil_divide, channels_last, dense, layout_of, new_map, tile_of

MOST_LAYERS = 64
"""In one launch: a kernel's arguments have 4 KB, and the backward kernel takes two addresses per layer."""


def fused(values: list[Tensor], factors: Tensor) -> Tensor:
    """Σ_m f_m ⊙ V_m, with a factor for each image, layer and channel."""
    out = None
    for first in range(0, len(values), MOST_LAYERS):
        group = slice(first, first + MOST_LAYERS)
        part = history_sum_op(values[group], factors[:, group])
        out = part if out is None else out + part
    assert out is not None, "a history has at least one layer"
    return out


@torch.library.custom_op("crosslayer::history_sum", mutates_args=())
def history_sum_op(values: list[Tensor], factors: Tensor) -> Tensor:
    """The forward launch."""
    from crosslayer.ops.fused import history_kernels

    values = alike(values)
    out = new_map(values[0])
    grid, sizes, options = launch(values, 1024)
    kernel: Any = history_kernels.forward_kernel
    kernel[grid](out, tuple(values), factors.contiguous(), *sizes, **options)
    return out


@history_sum_op.register_fake
def _(values: list[Tensor], factors: Tensor) -> Tensor:
    return new_map(values[0])


@torch.library.custom_op("crosslayer::history_sum_backward", mutates_args=())
def history_sum_backward(gradient: Tensor, values: list[Tensor], factors: Tensor) -> tuple[list[Tensor], Tensor]:
    """The backward launch: dV_m and df."""
    from crosslayer.ops.fused import history_kernels

    values = alike(values)
    batch, channels = values[0].shape[:2]
    gradient = gradient.contiguous(memory_format=layout_of(values[0]))
    value_gradients = [new_map(value) for value in values]
    grid, sizes, options = launch(values, 4096)
    partials = factors.new_empty((grid[0], len(values), channels), dtype=accumulator(values[0]))
    arguments = (gradient, tuple(values), factors.contiguous(), tuple(value_gradients), partials)
    kernel: Any = history_kernels.backward_kernel
    kernel[grid](*arguments, *sizes, **options)
    return value_gradients, partials.unflatten(0, (batch, sizes[2])).sum(1).to(factors.dtype)


@history_sum_backward.register_fake
def _(gradient: Tensor, values: list[Tensor], factors: Tensor) -> tuple[list[Tensor], Tensor]:
    layout = layout_of(values[0])
    return [torch.empty_like(value, memory_format=layout) for value in values], factors.new_empty(factors.shape)


def keep_inputs(ctx, inputs, output) -> None:
    """What the backward pass needs."""
    values, factors = inputs
    ctx.save_for_backward(*values, factors)


def backward(ctx, gradient):
    """The gradients of values and factors."""
    *values, factors = ctx.saved_tensors
    return history_sum_backward(gradient, values, factors)


history_sum_op.register_autograd(backward, setup_context=keep_inputs)


def alike(values: list[Tensor]) -> list[Tensor]:
    """All maps laid out as the first one."""
    first = dense(values[0])
    return [first, *(value.contiguous(memory_format=layout_of(first)) for value in values[1:])]


def launch(values: list[Tensor], elements: int) -> tuple[tuple[int, int], tuple[int, ...], dict[str, Any]]:
    """Grid, sizes and strides, and options of a launch with tiles of so many numbers."""
    from crosslayer.ops.fused.triton_types import TRITON_TYPES

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
