"""Delta AttnRes, delta attention residuals: arXiv 2605.18855, in the equations of its released code.

The stream x_t is the plain network's; what a branch reads is refined by attention over what was added before:

    block t reads  x_t + α_t A(w_t; v_0, f_0, …, f_{t-1})        x_{t+1} = act(f_t + x_t)

with A as in depth_attention.py, v_0 what the stage is given, f_t block t's branch. Queries start from N(0, 0.02²).
`gate="alpha"` has the published gate h = (1-α) x + α (x + A) = x + α A, a number per block that starts at 0: exactly
the plain network. `gate="none"` is the paper's own default, α = 1. `group=S` has sums of S branches for sources.

The first block reads the stage's input alone, as published (v_0 joins after the first layer).

Deviation from the released code: in its group form a source is a boundary of the stream less the source before, so
that from the third on sources are alternating sums. The paper's abstract says the change over the group, as here.

The paper has language models only. This project's choices: sources are those of a stage, v_0 is its first block's
shortcut, projected (zero in a graft's block that has none); f_t is the branch before ResNets' add and ReLU. In a graft
the closed block adds its shortcut to what it read; the graft takes the difference out of its output again.
"""

import dataclasses
import typing
from typing import Any, Literal, final

import torch
from torch import nn

from crosslayer.mechanisms.depth_attention import DepthAttention, Sources, check_group
from crosslayer.mechanisms.interface import Add, PositionwiseMechanism, StageShape
from crosslayer.mechanisms.registry import Paper, register, unknown_name
from crosslayer.ops.depth import weighted_sum
from crosslayer.ops.shapes import InputMap, Map

GateName = Literal["alpha", "none"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of Delta AttnRes.

    Args:
        group: how many branches make a source.
        gate: a number per block on what is added, 0 at the start (`alpha`), or `none`, as in the paper.
    """

    group: int = 1
    gate: GateName = "alpha"

    def __post_init__(self) -> None:
        check_group(self.group)
        if self.gate not in typing.get_args(GateName):
            raise ValueError(unknown_name("gate", self.gate, typing.get_args(GateName)))


@final
class DeltaAttentionResiduals(PositionwiseMechanism[Sources | None]):
    """A query, a key weight and α for every block but the first, which are readers 0, 1, …; the state is the sources.

    The last block's branch is read by nobody and is not kept.
    """

    starts_as_identity = True

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        self.readers = shape.depth - 1
        self.over_depth = DepthAttention(self.readers, shape.channels, config.group, query_std=0.02)
        gated = range(self.readers if config.gate == "alpha" else 0)
        self.alphas = nn.ParameterList(torch.zeros(()) for _ in gated)
        self.starts_as_identity = config.gate == "alpha"

    def acts_on(self, t: int) -> bool:
        """All blocks but the first."""
        return t > 0

    def start(self, x: InputMap, carry: Any) -> None:
        """No source, until the first shortcut has the branches' shape."""
        return

    def read(self, t: int, x: InputMap, state: Sources | None) -> tuple[InputMap, Sources | None]:
        """The stream, and what its past adds to it."""
        if state is None:
            return x, None
        weights = self.over_depth.weights(t - 1, state, x)
        added = weighted_sum(weights, [source.value for source in state.in_order()])
        return x + (self.alphas[t - 1].to(x.dtype) * added if len(self.alphas) else added), state

    def join(self, t: int, branch: Map, shortcut: Map, state: Sources | None, add: Add) -> tuple[Map, Sources | None]:
        """The block's own add; the branch joins the sources."""
        if t < self.readers:
            state = self.over_depth.add(t, branch, state or self.over_depth.begin(shortcut))
        return add(branch, shortcut), state

    def attention(self, state: Sources | None) -> Any:
        """Of every block but the first on the stage's input and on the branches before its own."""
        return None if state is None else self.over_depth.attention(state)


_PAPER = Paper(
    "2605.18855",
    2026,
    reads="branches, as keys at every position",
    writes="adds to what a block reads",
    state="T maps",
    block="2*c + 1",
    stage="-2*c - 1",
    results="none: language only",
)
register("delta_attnres", DeltaAttentionResiduals, Config, _PAPER)
