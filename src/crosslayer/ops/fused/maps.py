"""How maps lie in memory, and how kernels cut them into tiles. Nothing here needs Triton."""

from typing import NamedTuple

import torch
from torch import Tensor

WARPS = 4
ENOUGH_PROGRAMS = 1024
"""For a GPU of a hundred-odd multiprocessors."""


def channels_last(x: Tensor) -> bool:
    """Whether a map's channels lie side by side (and it is not the same in both layouts)."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def layout_of(x: Tensor) -> torch.memory_format:
    """The layout a new map like x gets."""
    return torch.channels_last if channels_last(x) else torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """x itself where it fills its memory in one of the two layouts, else a copy that does."""
    return x if channels_last(x) else x.contiguous()


def new_map(x: Tensor) -> Tensor:
    """Memory for a map like x."""
    return torch.empty_like(x, memory_format=layout_of(x))


def accumulator(x: Tensor) -> torch.dtype:
    """What kernels compute in: float32, or float64 for float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


class Tile(NamedTuple):
    """What one program holds at a time: positions × channels, powers of two, the side by side ones warp-wide."""

    positions: int
    channels: int


def tile_of(x: Tensor, positions: int, elements: int) -> Tile:
    """A tile of about `elements` numbers of a map whose rows (or whole map) have so many positions."""
    if channels_last(x) or positions == 1:
        channels = min(power_of_two(x.shape[1]), 64)
        return Tile(min(power_of_two(positions), max(elements // channels, 1)), channels)
    along = min(power_of_two(positions), 64)
    return Tile(along, min(power_of_two(x.shape[1]), max(elements // along, 1)))


def ceil_divide(a: int, b: int) -> int:
    """How many b it takes to cover a."""
    return -(-a // b)
