"""LAuReL-LR, learned augmented residual layer of low rank: arXiv 2411.07501.

    x_{t+1} = act( f_t + x_t + A_t B_t x_t )        B_t: r × c, A_t: c × r, at every position

A_t starts at 0, exactly the plain network; that, and B_t from N(0, 1/c), are this project's choice: no code of the
authors is known. x_t is the shortcut. The first block of a stage of maps is left alone: its shortcut is a projection
that is learned already, of which another of low rank is a part (in a graft it has none).
"""

import dataclasses
import math
from typing import final

import torch
import torch.nn.functional as F
from torch import nn

from crosslayer.mechanisms.interface import Add, PositionwiseMechanism, StageShape
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.ops.shapes import Map


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of LAuReL-LR.

    Args:
        rank: r.
    """

    rank: int = 16

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; it must be at least 1")


@final
class LowRankResidual(PositionwiseMechanism[None]):
    """Two matrices per block; no state."""

    starts_as_identity = True

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        self.maps = shape.layout == "maps"
        blocks, c, r = [str(t) for t in range(shape.depth) if self.acts_on(t)], shape.channels, config.rank
        self.down = nn.ParameterDict({t: torch.randn(r, c) / math.sqrt(c) for t in blocks})
        self.up = nn.ParameterDict({t: torch.zeros(c, r) for t in blocks})

    def acts_on(self, t: int) -> bool:
        """All blocks, or all but the first."""
        return t > 0 or not self.maps

    def join(self, t: int, branch: Map, shortcut: Map, state: None, add: Add) -> tuple[Map, None]:
        """The block's own add, of an augmented shortcut."""
        if not self.acts_on(t):
            return add(branch, shortcut), state
        squeezed = F.conv2d(shortcut, self.down[str(t)].to(shortcut.dtype)[..., None, None])
        return add(branch, shortcut + F.conv2d(squeezed, self.up[str(t)].to(shortcut.dtype)[..., None, None])), state


_PAPER = Paper(
    "2411.07501",
    2024,
    reads="shortcut",
    writes="adds to the shortcut",
    state="none",
    block="32*c",
    stage="-32*c",
    results="ImageNet, ResNet-50, in the paper",
)
register("laurel", LowRankResidual, Config, _PAPER)
