"""How maps are cut into tiles for Triton's kernels, and what every launch of them is given."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from crosslayer.fused.gpu.types import TRITON_TYPES
from crosslayer.fused.layout import accumulator, channels_last

WARPS = 4
OPTIONS = {"num_warps": WARPS, "enable_fp_fusion": True}
"""Of the compiler: multiply-adds are one operation, as in PyTorch's own kernels."""
ENOUGH_PROGRAMS = 1024
"""For a GPU of a hundred-odd multiprocessors."""
ELEMENTS = 64 * WARPS
"""In a tile of windows: two for each thread, which keeps three rows of two windows and eighteen taps in registers."""
STREAMED = 512 * WARPS
"""In a tile of positions: sixteen for each thread, so that enough is on its way from memory."""


class Tile(NamedTuple):
    """What one program holds at a time: positions × channels, powers of two, the side by side ones warp-wide."""

    positions: int
    channels: int


class Plan(NamedTuple):
    """How a map is cut up: `programs` along batch and rows or positions, of `length` of these each."""

    programs: int
    chunks: int
    """Programs to an image."""
    length: int
    tile: Tile


def plan(x: Tensor) -> Plan:
    """For windows that walk down rows: whole columns to a program, or as many rows as leave programs enough."""
    _, _, height, width = x.shape
    tile = _tile_of(x, width, ELEMENTS)
    return cut(x, tile, height, least=4)


def stretches(x: Tensor) -> Plan:
    """For passes to which a position's neighbours are nothing: stretches of positions, tile by tile."""
    size = x.shape[2] * x.shape[3]
    tile = _tile_of(x, size, STREAMED)
    return cut(x, tile, size, least=tile.positions)


def tiles(x: Tensor, elements: int) -> Plan:
    """Likewise, with one tile of about so many numbers to a program."""
    size = x.shape[2] * x.shape[3]
    tile = _tile_of(x, size, elements)
    chunks = _ceil_divide(size, tile.positions)
    return Plan(x.shape[0] * chunks, chunks, tile.positions, tile)


def cut(x: Tensor, tile: Tile, length: int, least: int) -> Plan:
    """All of an image's rows or positions to a program, or as many, `least` or more, as leave programs enough."""
    batch, channels = x.shape[:2]
    programs = max(batch * _ceil_divide(channels, tile.channels), 1)
    chunks = min(_ceil_divide(ENOUGH_PROGRAMS, programs), _ceil_divide(length, least))
    each = _power_of_two(_ceil_divide(length, chunks))
    chunks = _ceil_divide(length, each)
    return Plan(batch * chunks, chunks, each, tile)


def launch_over(kernel: Any, plan: Plan, x: Tensor, *arguments: Any, **flags: float) -> None:
    """Launches a kernel that walks down rows; its last arguments are the sizes and strides of x."""
    _, channels, height, width = x.shape
    size = height * width
    strides = (
        (channels * size, 1, width * channels, channels) if channels_last(x) else (channels * size, size, width, 1)
    )
    lengths = {"ROWS": plan.length, "COLUMNS": plan.tile.positions}
    start(kernel, plan, x, *arguments, height, width, channels, plan.chunks, strides, **flags, **lengths)


def launch_along(kernel: Any, plan: Plan, x: Tensor, *arguments: Any, **flags: float) -> None:
    """Launches a kernel that goes through positions; its last arguments are the sizes and strides of x."""
    _, channels, height, width = x.shape
    size = height * width
    strides = (channels * size, 1, channels) if channels_last(x) else (channels * size, size, 1)
    lengths = {"LENGTH": plan.length, "POSITIONS": plan.tile.positions}
    start(kernel, plan, x, *arguments, size, channels, plan.chunks, strides, **flags, **lengths)


def start(kernel: Any, plan: Plan, x: Tensor, *arguments: Any, **constants: float) -> None:
    """Launches a kernel for all programs and channels, on the device of x."""
    grid = (plan.programs, _ceil_divide(x.shape[1], plan.tile.channels))
    accumulated = TRITON_TYPES[accumulator(x)]
    with torch.cuda.device_of(x):
        kernel[grid](*arguments, **constants, CHANNELS=plan.tile.channels, ACC=accumulated, **OPTIONS)


def _tile_of(x: Tensor, positions: int, elements: int) -> Tile:
    """A tile of about `elements` numbers of a map whose rows (or whole map) have so many positions."""
    if channels_last(x) or positions == 1:
        channels = min(_power_of_two(x.shape[1]), 64)
        return Tile(min(_power_of_two(positions), max(elements // channels, 1)), channels)
    along = min(_power_of_two(positions), 64)
    return Tile(along, min(_power_of_two(x.shape[1]), max(elements // along, 1)))


def _power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def _ceil_divide(a: int, b: int) -> int:
    """How many b it takes to cover a."""
    return -(-a // b)
