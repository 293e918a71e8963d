"""Residual blocks that call every hook of a mechanism and know none by name."""

from typing import Any, final

import torch
from torch import nn

from crosslayer.mechanisms import Mechanism
from crosslayer.mechanisms.batch_norm import counted, plain_norm
from crosslayer.ops import KnownPool, Pending
from crosslayer.ops.shapes import InputMap, Map, Taps


@final
class BasicBlock(nn.Module):
    """Two 3×3 convolutions (arXiv 1512.03385, Fig. 5 left)."""

    expansion = 1

    def __init__(self, index: int, in_channels: int, width: int, stride: int, mechanism: Mechanism[Any]) -> None:
        super().__init__()
        self.index = index
        self.conv1 = convolution(in_channels + mechanism.extra_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = mechanism.convolution(index, width, width, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = projection(in_channels, width, stride)
        self.relu = nn.ReLU(inplace=True)

    @staticmethod
    def tap_channels(width: int) -> tuple[int, ...]:
        """Channels of the taps a block of this width offers."""
        return (width, width)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalisation that the residual branch ends with."""
        return self.bn2

    def forward(self, x: InputMap, mechanism: Mechanism[Any], state: Any) -> tuple[Map, Any]:
        """The block with the mechanism's hooks: its output and the mechanism's next state."""
        first = self.relu(self.bn1(self.conv1(mechanism.read(self.index, x, state))))
        return finished(self, (first,), self.conv2(first), x, mechanism, state)


@final
class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride), 1×1 convolutions (arXiv 1512.03385, Fig. 5 right)."""

    expansion = 4

    def __init__(self, index: int, in_channels: int, width: int, stride: int, mechanism: Mechanism[Any]) -> None:
        super().__init__()
        self.index = index
        self.conv1 = convolution(in_channels + mechanism.extra_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = mechanism.convolution(index, width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.shortcut = projection(in_channels, width * self.expansion, stride)
        self.relu = nn.ReLU(inplace=True)

    @staticmethod
    def tap_channels(width: int) -> tuple[int, ...]:
        """Channels of the taps a block of this width offers."""
        return (width, width, width * Bottleneck.expansion)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalisation that the residual branch ends with."""
        return self.bn3

    def forward(self, x: InputMap, mechanism: Mechanism[Any], state: Any) -> tuple[Map, Any]:
        """The block with the mechanism's hooks: its output and the mechanism's next state."""
        first = self.relu(self.bn1(self.conv1(mechanism.read(self.index, x, state))))
        second = self.relu(self.bn2(self.conv2(first)))
        return finished(self, (first, second), self.conv3(second), x, mechanism, state)


Block = BasicBlock | Bottleneck
BlockType = type[BasicBlock] | type[Bottleneck]


def finished(
    block: Block, inner: Taps, convolved: Map, x: InputMap, mechanism: Mechanism[Any], state: Any
) -> tuple[Map, Any]:
    """A block from its last convolution on: normalised, gated, added to the shortcut of x, activated, merged.

    A normalisation that has been exchanged for another is called as it is.
    """
    norm = block.last_norm
    if mechanism.pools_output and plain_norm(norm):
        return mechanism.end_block(block.index, convolved, pending(block.shortcut, x), counted(norm), state)
    shortcut = block.shortcut(x)
    branch, state = mechanism.gate(block.index, (*inner, norm(convolved)), state)
    return mechanism.merge(block.index, KnownPool(block.relu(branch + shortcut)), shortcut, state)


def pending(shortcut: nn.Module, x: InputMap) -> Pending:
    """The shortcut of x; where nothing is learned, a projection's normalisation is left to those who read it."""
    if type(shortcut) is nn.Sequential and not torch.is_grad_enabled():
        projected, norm = shortcut
        if plain_norm(norm) and not norm.training:
            return Pending(projected(x), counted(norm))
    return Pending(shortcut(x))


def convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias that keeps the size, up to its stride."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The shortcut: identity where shapes agree, else 1×1 convolution and normalisation."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return nn.Sequential(convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
