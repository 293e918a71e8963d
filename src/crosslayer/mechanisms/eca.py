"""Efficient channel attention (ECA), arXiv 1910.03151, Eq. 9 and 12.

    u ← u ⊙ σ(C1D_k(GAP(u)))               on the residual branch u, before it is added

The kernel size k follows from the channels (Eq. 12), as in the tables' CIFAR code; the published ImageNet weights have
others, k = 3, 5, 5, 7 in the four stages of a ResNet-50 (`kernel_sizes`).
"""

import dataclasses
from typing import final

import torch

from crosslayer.mechanisms.interface import Mechanism, StageShape
from crosslayer.mechanisms.layers import ChannelConvolution, TypedModuleList
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.ops.pooling import global_average_pool
from crosslayer.ops.shapes import Map


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of ECA.

    Args:
        kernel_sizes: k of every stage, odd; empty, it follows from the channels.
    """

    kernel_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(k < 1 or k % 2 == 0 for k in self.kernel_sizes):
            raise ValueError(f"kernel_sizes are {self.kernel_sizes}; every one must be odd")

    def of_stage(self, index: int) -> int | None:
        """K of a stage, where it is given.

        Raises:
            ValueError: sizes are given, but none for this stage.
        """
        if self.kernel_sizes and index >= len(self.kernel_sizes):
            raise ValueError(f"kernel_sizes are {self.kernel_sizes}, but there is a stage {index + 1}")
        return self.kernel_sizes[index] if self.kernel_sizes else None


@final
class EfficientChannelAttention(Mechanism[None]):
    """One channel convolution per block; no state."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        kernel = config.of_stage(shape.index)
        self.gates = TypedModuleList(ChannelConvolution(shape.channels, kernel) for _ in range(shape.depth))

    def gate(self, t: int, branch: Map, state: None) -> tuple[Map, None]:
        """Eq. 9: every channel scaled by its gate."""
        gate = torch.sigmoid(self.gates[t](global_average_pool(branch)))
        return branch * gate.to(branch.dtype)[..., None, None], state


_PAPER = Paper(
    "1910.03151",
    2019,
    reads="branch, pooled",
    writes="gates the branch",
    state="none",
    block="k",
    results="ImageNet, ResNet-50: top-1 77.5",
)
register("eca", EfficientChannelAttention, Config, _PAPER)
