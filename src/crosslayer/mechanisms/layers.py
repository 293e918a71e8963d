"""Small modules and choices that several mechanisms share."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, final

from torch import nn

from crosslayer.mechanisms.interface import StageShape
from crosslayer.ops.shapes import Vector

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class TypedModuleList(nn.ModuleList, Generic[ModuleT]):
    """A ModuleList whose members' type is known to the type checker."""

    if TYPE_CHECKING:

        def __getitem__(self, index: int) -> ModuleT: ...  # pyright: ignore[reportIncompatibleMethodOverride]
        def __iter__(self) -> Iterator[ModuleT]: ...


@final
class ChannelConvolution(nn.Conv1d):
    """C1D_k: a one-channel 1-D convolution along the channel axis, without bias, that keeps the length."""

    def __init__(self, channels: int, kernel: int | None = None) -> None:
        kernel = kernel or channel_kernel_size(channels)
        super().__init__(1, 1, kernel, padding=(kernel - 1) // 2, bias=False)

    def forward(self, y: Vector) -> Vector:  # pyright: ignore[reportIncompatibleMethodOverride]  # one vector in
        """Batch × channels in and out."""
        return super().forward(y.unsqueeze(1)).squeeze(1)


def channel_kernel_size(channels: int) -> int:
    """ECA's rule (arXiv 1910.03151, Eq. 12, γ=2, β=1): the odd size at or above int(|(log2 c + 1) / 2|)."""
    size = int(abs((math.log2(channels) + 1) / 2))
    return size if size % 2 else size + 1


def acts_in(shape: StageShape, stages: tuple[int, ...]) -> bool:
    """Whether the stage is one of `stages`; where a network ends before the first of them, whether it is its last."""
    return shape.index in stages or (shape.last and shape.index < min(stages))


def check_stages(stages: tuple[int, ...]) -> None:
    """Raises ValueError for no stage at all, or one that there cannot be."""
    if not stages or min(stages) < 0:
        raise ValueError(f"stages are {stages}; name at least one, counted from 0")
