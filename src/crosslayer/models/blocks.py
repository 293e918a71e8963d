"""Residual blocks that know no mechanism by name, and the stage in which they look back at each other."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, final

from torch import nn
from torch.utils.checkpoint import checkpoint

from crosslayer.mechanisms import Mechanism, NetworkMechanism, NetworkShape, StageShape
from crosslayer.mechanisms.depth_pass import BlockEnd, DepthPass
from crosslayer.mechanisms.layers import TypedModuleList
from crosslayer.ops.shapes import InputMap, Map

Unit = Literal["block", "sublayer"]
"""What looks back: a block, or a transformer's attention and its MLP each by itself."""


class MechanismFactory(NamedTuple):
    """What builds a network's mechanisms, from a class and its options."""

    kind: type[Mechanism[Any]]
    config: Any

    def of(self, stages: list[StageShape]) -> Callable[[int], Mechanism[Any]]:
        """Builds the mechanism of a stage, or gives every stage the one that lives once in a network."""
        if issubclass(self.kind, NetworkMechanism):
            whole = self.kind(NetworkShape(tuple(stages)), self.config)
            return lambda _: whole
        return lambda index: self.kind(stages[index], self.config)


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
        self.shortcut = _projection(in_channels, width, stride)
        self.relu = nn.ReLU(inplace=True)

    @staticmethod
    def inner_channels(width: int) -> tuple[int, ...]:
        """Channels of a block's inner activations."""
        return (width,)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalisation that the residual branch ends with."""
        return self.bn2

    def forward(self, x: InputMap, depth: DepthPass) -> Map:
        """The block's output; `depth` is the pass that it is a part of."""
        first = self.relu(self.bn1(self.conv1(depth.read(self.index, x))))
        ending = BlockEnd(self.conv2(first), self.bn2, x, self.shortcut, self.relu, (first,))
        return depth.end(self.index, ending)


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
        self.shortcut = _projection(in_channels, width * self.expansion, stride)
        self.relu = nn.ReLU(inplace=True)

    @staticmethod
    def inner_channels(width: int) -> tuple[int, ...]:
        """Channels of a block's inner activations."""
        return (width, width)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalisation that the residual branch ends with."""
        return self.bn3

    def forward(self, x: InputMap, depth: DepthPass) -> Map:
        """The block's output; `depth` is the pass that it is a part of."""
        first = self.relu(self.bn1(self.conv1(depth.read(self.index, x))))
        second = self.relu(self.bn2(self.conv2(first)))
        ending = BlockEnd(self.conv3(second), self.bn3, x, self.shortcut, self.relu, (first, second))
        return depth.end(self.index, ending)


Block = BasicBlock | Bottleneck
BlockType = type[BasicBlock] | type[Bottleneck]


@final
class Stage(nn.Module):
    """Blocks of one shape and the mechanism that lets them look back at each other.

    Args:
        block: basic or bottleneck.
        shape: what a mechanism is told of the stage.
        in_channels: of the stage's input.
        width: of the blocks.
        stride: of the first block.
        mechanism: of the stage, or of the network, which then owns it.
        first: index that the mechanism knows the first block by.
    """

    def __init__(
        self,
        block: BlockType,
        shape: StageShape,
        in_channels: int,
        width: int,
        stride: int,
        mechanism: Mechanism[Any],
        first: int = 0,
    ) -> None:
        super().__init__()
        self.channels, self.first = shape.channels, first
        self.pass_type = DepthPass
        self.grad_checkpointing = False
        if isinstance(mechanism, NetworkMechanism):
            self._shared = (mechanism,)  # in a tuple: the network registers it, once
        else:
            self.mechanism = mechanism
        self.blocks = TypedModuleList(
            block(t, in_channels if t == 0 else self.channels, width, stride if t == 0 else 1, mechanism)
            for t in range(shape.depth)
        )

    def dilated(self, first: int, others: int) -> "Stage":
        """Spreads the 3×3 convolutions: the block's first one by `first` in the first block, by `others` elsewhere.

        The first block is given a map that the convolutions of the stage before were spread for, as in timm.
        """
        for block in self.blocks if others > 1 else ():
            kernels = [m for m in block.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
            for place, convolution in enumerate(kernels):
                spread = first if block.index == 0 and place == 0 else others
                convolution.dilation = convolution.padding = (spread, spread)
        return self

    @property
    def own_mechanism(self) -> Mechanism[Any]:
        """The stage's, or the network's."""
        return self._shared[0] if "_shared" in vars(self) else self.mechanism

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def begin(self, x: InputMap, carry: Any = None) -> DepthPass:
        """A pass through this stage."""
        return self.pass_type(self.own_mechanism, x, carry, self.first, self.blocks)

    def forward(self, x: InputMap, depth: DepthPass | None = None) -> Map:
        """The stage's output; of a pass that is given, the caller sees to the end."""
        own = self.begin(x) if depth is None else depth
        for block in self.blocks:
            x = self._recomputed(block, x, own) if self.grad_checkpointing else block(x, own)
        if depth is None:
            own.finish()
        return x

    @staticmethod
    def _recomputed(block: Block, x: InputMap, depth: DepthPass) -> Map:
        """A block whose activations are not kept but computed anew for the backward pass."""

        def step(x: InputMap, state: Any) -> tuple[Map, Any]:
            again = depth.at(block.index, state)
            return block(x, again), again.state

        out, depth.state = checkpoint(step, x, depth.state, use_reentrant=False)  # pyright: ignore[reportGeneralTypeIssues]
        depth.next += 1
        return out


def convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias that keeps the size, up to its stride."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The shortcut: identity where shapes agree, else 1×1 convolution and normalisation."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return nn.Sequential(convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
