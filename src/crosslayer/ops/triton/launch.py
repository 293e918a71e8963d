"""How maps are cut into tiles for Triton's kernels, and what every launch of the light forms' kernels is given."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from crosslayer.ops.fused.layout import accumulator, channels_last
from crosslayer.ops.triton.types import TRITON_TYPES

WARPS = 4
ENOUGH_PROGRAMS = 1024
"""For a GPU of a hundred-odd multiprocessors."""
ELEMENTS = 64 * WARPS
"""In a tile: two for each thread, which keeps three rows of two windows and eighteen taps in registers."""


class Tile(NamedTuple):
    """What one program holds at a time: positions × channels, powers of two, the side by side ones warp-wide."""

    positions: int
    channels: int


class Plan(NamedTuple):
    """How a map is cut up: `programs` along batch and rows, of `rows` rows each."""

    programs: int
    row_chunks: int
    rows: int
    tile: Tile


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


def tile_of(x: Tensor, positions: int, elements: int) -> Tile:
    """A tile of about `elements` numbers of a map whose rows (or whole map) have so many positions."""
    if channels_last(x) or positions == 1:
        channels = min(power_of_two(x.shape[1]), 64)
        return Tile(min(power_of_two(positions), max(elements // channels, 1)), channels)
    along = min(power_of_two(positions), 64)
    return Tile(along, min(power_of_two(x.shape[1]), max(elements // along, 1)))


def power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def ceil_divide(a: int, b: int) -> int:
    """How many b it takes to cover a."""
    return -(-a // b)
