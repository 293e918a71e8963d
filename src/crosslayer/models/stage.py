from collections.abc import Callable
from typing import Any, final

from torch import Tensor, nn

from crosslayer.mechanisms import Mechanism, StageShape
from crosslayer.mechanisms.module_list import TypedModuleList
from crosslayer.models.block import BlockType
from crosslayer.ops.shapes import InputMap, Map

MechanismFactory = Callable[[StageShape], Mechanism[Any]]


@final
class Stage(nn.Module):
    """Blocks of one shape and the mechanism that lets them look back at each other."""

    def __init__(
        self,
        index: int,
        block: BlockType,
        depth: int,
        in_channels: int,
        width: int,
        stride: int,
        mechanism: MechanismFactory,
        *,
        last: bool,
        small_images: bool,
    ) -> None:
        super().__init__()
        self.channels = width * block.expansion
        shape = StageShape(index, depth, self.channels, block.tap_channels(width), last, small_images)
        self.mechanism = mechanism(shape)
        self.blocks = TypedModuleList(
            block(
                t,
                in_channels if t == 0 else self.channels,
                width,
                stride if t == 0 else 1,
                self.mechanism,
            )
            for t in range(depth)
        )

    def forward(self, x: InputMap, carry: Tensor | None) -> tuple[Map, Tensor | None]:
        """The stage's output, and what its mechanism hands on."""
        state = self.mechanism.start(x, carry)
        for block in self.blocks:
            x, state = block(x, self.mechanism, state)
        return x, self.mechanism.finish(state)
