"""What every launch of the light forms' kernels is given."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from crosslayer.ops.fused.maps import (
    ENOUGH_PROGRAMS,
    WARPS,
    Tile,
    accumulator,
    ceil_divide,
    dense,
    layout_of,
    power_of_two,
    tile_of,
)

ELEMENTS = 64 * WARPS
"""In a tile: two for each thread, which keeps three rows of two windows and eighteen taps in registers."""


class Inputs(NamedTuple):
    """What z is made of, as the kernels want it: maps of one layout, the rest contiguous."""

    x: Tensor
    shortcut: Tensor
    value_kernel: Tensor
    gate: Tensor
    scale: Tensor
    shortcut_kernel: Tensor
    """The value's kernel where there is none: it is not read then."""


class Plan(NamedTuple):
    """How a map is cut up: `programs` along batch and rows, of `rows` rows each."""

    programs: int
    row_chunks: int
    rows: int
    tile: Tile


def prepared(
    x: Tensor, shortcut: Tensor, value_kernel: Tensor, gate: Tensor, scale: Tensor, shortcut_kernel: Tensor | None
) -> Inputs:
    """Copies only what does not lie as the kernels want it."""
    x = dense(x)
    shortcut = shortcut.contiguous(memory_format=layout_of(x))
    rest = (value_kernel, gate, scale, present(shortcut_kernel, value_kernel))
    return Inputs(x, shortcut, *(tensor.contiguous() for tensor in rest))


def present(tensor: Tensor | None, other: Tensor) -> Tensor:
    """An address must be given even where nothing is read."""
    return other if tensor is None else tensor


def plan(x: Tensor) -> Plan:
    """Whole columns to a program, or as many rows as leave programs enough for a GPU."""
    batch, channels, height, width = x.shape
    tile = tile_of(x, width, ELEMENTS)
    programs = max(batch * ceil_divide(channels, tile.channels), 1)
    chunks = min(ceil_divide(ENOUGH_PROGRAMS, programs), ceil_divide(height, 4))
    rows = power_of_two(ceil_divide(height, chunks))
    chunks = ceil_divide(height, rows)
    return Plan(batch * chunks, chunks, rows, tile)


def launch_over(kernel: Any, plan: Plan, x: Tensor, *arguments: Any, **flags: bool | int) -> None:
    """Launches a kernel whose last arguments are the sizes and strides of x."""
    from crosslayer.ops.fused.triton_types import TRITON_TYPES

    _, channels, height, width = x.shape
    size = height * width
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    strides = (channels * size, 1, width * channels, channels) if last else (channels * size, size, width, 1)
    kernel[plan.programs, ceil_divide(channels, plan.tile.channels)](
        *arguments,
        height,
        width,
        channels,
        plan.row_chunks,
        strides,
        **flags,
        ROWS=plan.rows,
        COLUMNS=plan.tile.positions,
        CHANNELS=plan.tile.channels,
        ACC=TRITON_TYPES[accumulator(x)],
        num_warps=WARPS,
    )
