"""RLA_g, recurrent layer aggregation with a global map: arXiv 2110.11852, section 3.3.

A map H of 32 channels, zero after the stem, runs along the whole network. In block t, with y the block's output:

    the block's first convolution reads  [x, H]
    H ← Conv3×3(tanh(BN_t(H' + Conv1×1(y))))        H' is H, averaged 2×2 where the block halves its map
    the classifier reads  GAP [x, ReLU(BN(H))]

The convolutions are shared by the blocks of a stage; none has a bias.

Deviation from the paper: there y is the residual branch before it is added (`aggregate="branch"`). The released code
means to do the same, but adds the shortcut to the very tensor in place and applies ReLU to it, so that H takes in the
block's output; its published weights were trained so, and so it is here by default.

Deviation from the released code: where a map of odd size is halved, the last row and column count here (they are
averaged over what is there, so that H' is as large as the block's output); the released pooling drops them and fails.
"""

import dataclasses
import typing
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crosslayer.mechanisms.interface import Add, Mechanism, StageShape
from crosslayer.mechanisms.layers import TypedModuleList
from crosslayer.mechanisms.registry import Paper, register, unknown_name
from crosslayer.ops.shapes import InputMap, Map, ReadMap

AggregateName = Literal["output", "branch"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of RLA_g.

    Args:
        recurrent_channels: channels of H.
        aggregate: what H takes in of a block: its `output`, as released, or its residual `branch`, as printed.
    """

    recurrent_channels: int = 32
    aggregate: AggregateName = "output"

    def __post_init__(self) -> None:
        if self.aggregate not in typing.get_args(AggregateName):
            raise ValueError(unknown_name("aggregate", self.aggregate, typing.get_args(AggregateName)))
        if self.recurrent_channels < 1:
            raise ValueError(f"recurrent_channels is {self.recurrent_channels}; H has at least one channel")


@final
class RecurrentLayerAggregation(Mechanism[Tensor]):
    """Two convolutions per stage, a normalisation per block, one more at the network's end; the state is H."""

    extra_in = Config.recurrent_channels

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        width = config.recurrent_channels
        self.extra_in = width
        self.extra_out = width if shape.last else 0
        self.width = width
        self.takes_branch = config.aggregate == "branch"
        self.from_block = nn.Conv2d(shape.channels, width, 1, bias=False)
        self.recurrent = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = TypedModuleList(nn.BatchNorm2d(width) for _ in range(shape.depth))
        self.last_norm = nn.BatchNorm2d(width) if shape.last else None

    def start(self, x: InputMap, carry: Tensor | None) -> Tensor:
        """H as the stage before left it, or zero."""
        return x.new_zeros(x.shape[0], self.width, *x.shape[2:]) if carry is None else carry

    def read(self, t: int, x: InputMap, state: Tensor) -> tuple[ReadMap, Tensor]:
        """The block's input, joined by H."""
        return torch.cat([x, state.to(x.dtype)], dim=1), state

    def join(self, t: int, branch: Map, shortcut: Map, state: Tensor, add: Add) -> tuple[Map, Tensor]:
        """The output as it is; H takes it in, or the branch."""
        out = add(branch, shortcut)
        return out, self.aggregated(t, branch if self.takes_branch else out, state)

    def aggregated(self, t: int, y: Map, hidden: Tensor) -> Tensor:
        """H with block t's map in it."""
        before = hidden if hidden.shape[2:] == y.shape[2:] else _halved(hidden)
        return self.recurrent(torch.tanh(self.norms[t](before + self.from_block(y))))

    def finish(self, state: Tensor) -> Tensor:
        """H for the next stage; after the last one, what the classifier reads."""
        return state if self.last_norm is None else torch.relu(self.last_norm(state))


def _halved(hidden: Tensor) -> Tensor:
    """H averaged 2×2; an odd row or column at the end by itself, as a strided convolution has it."""
    return F.avg_pool2d(hidden, 2, ceil_mode=True, count_include_pad=False)


_PAPER = Paper(
    "2110.11852",
    2021,
    reads="outputs, through a map",
    writes="joins what blocks read",
    state="one map of 32 channels",
    block="64",
    stage="32*c + 9*32*32",
    results="ImageNet, ResNet-50: top-1 77.2",
)
register("rla_g", RecurrentLayerAggregation, Config, _PAPER)
