"""How a network built elsewhere lays out its activations, and the maps that a mechanism is given of them."""

from abc import ABC, abstractmethod
from typing import NamedTuple, final

import torch
from torch import Tensor

from crosslayer.mechanisms.interface import LayoutName
from crosslayer.ops.shapes import Map, Prefix, Tokens

Grid = tuple[int, int]


class Split(NamedTuple):
    """An activation as a map, and the tokens that are no part of it, if there are any."""

    map: Map
    prefix: Prefix | None


class Layout(ABC):
    """One way to lay out activations; `grid` is the map's size where tokens do not tell it."""

    kind: LayoutName

    @abstractmethod
    def split(self, x: Tensor, grid: Grid | None) -> Split:
        """The activation as a map and prefix."""

    @abstractmethod
    def join(self, split: Split) -> Tensor:
        """The map and prefix as an activation."""

    @abstractmethod
    def per_channel(self, scale: Tensor) -> Tensor:
        """One number per channel, shaped to scale an activation."""

    def of_positions(self) -> "Layout":
        """The layout for mechanisms that work at every position by itself."""
        return self


@final
class ChannelsFirst(Layout):
    """Batch × channels × height × width: convolutional networks."""

    kind: LayoutName = "maps"

    def split(self, x: Tensor, grid: Grid | None) -> Split:
        """The map itself."""
        return Split(x, None)

    def join(self, split: Split) -> Tensor:
        """The map itself."""
        return split.map

    def per_channel(self, scale: Tensor) -> Tensor:
        """Channels × 1 × 1."""
        return scale[:, None, None]


@final
class ChannelsLast(Layout):
    """Batch × height × width × channels: hierarchical transformers."""

    kind: LayoutName = "tokens"

    def split(self, x: Tensor, grid: Grid | None) -> Split:
        """A view of the same memory."""
        return Split(x.permute(0, 3, 1, 2), None)

    def join(self, split: Split) -> Tensor:
        """A view of the same memory."""
        return split.map.permute(0, 2, 3, 1)

    def per_channel(self, scale: Tensor) -> Tensor:
        """Channels are last."""
        return scale


@final
class TokenRows(Layout):
    """Batch × tokens × channels: `prefix` tokens, then the map row by row.

    Args:
        prefix: tokens that are no part of the map.
        grid: size of the map, for a network with images of one size.
    """

    kind: LayoutName = "tokens"

    def __init__(self, prefix: int, grid: Grid) -> None:
        self.prefix, self.grid = prefix, grid

    def of_positions(self) -> Layout:
        """All tokens, those of the prefix too, in one column."""
        return TokenColumn()

    def split(self, x: Tokens, grid: Grid | None) -> Split:
        """Views of the same memory.

        Raises:
            ValueError: the tokens are not the prefix and a map of that size.
        """
        height, width = grid or self.grid
        if x.shape[1] != self.prefix + height * width:
            raise ValueError(
                f"{x.shape[1]} tokens are not {self.prefix} and a map of {height}×{width}: "
                "the network was grafted for images of another size"
            )
        rows = x[:, self.prefix :].unflatten(1, (height, width))
        return Split(rows.permute(0, 3, 1, 2), x[:, : self.prefix] if self.prefix else None)

    def join(self, split: Split) -> Tokens:
        """Prefix first, then the map row by row."""
        rows = split.map.flatten(2).transpose(1, 2)
        return rows if split.prefix is None else torch.cat([split.prefix, rows], dim=1)

    def per_channel(self, scale: Tensor) -> Tensor:
        """Channels are last."""
        return scale


@final
class TokenColumn(Layout):
    """Batch × tokens × channels as a map of one column: what tokens are is no matter."""

    kind: LayoutName = "tokens"

    def split(self, x: Tokens, grid: Grid | None) -> Split:
        """A view of the same memory."""
        return Split(x.transpose(1, 2).unsqueeze(3), None)

    def join(self, split: Split) -> Tokens:
        """A view of the same memory."""
        return split.map.squeeze(3).transpose(1, 2)

    def per_channel(self, scale: Tensor) -> Tensor:
        """Channels are last."""
        return scale
