"""AttnRes, attention residuals: arXiv 2603.15031, Eq. 1-6.

With v_0 what the stage is given and f_t block t's residual branch, the stream after block t is

    x_{t+1} = A(w_t; v_0, f_0, …, f_t)                A: attention over depth, see depth_attention.py

and no shortcut is added. `group=S` is the block form: a source is the sum of S branches, the group at hand counts with
its sum so far, and S at least the stage's depth leaves the plain sum and v_0, weighed against each other. Every w_t
starts at 0: an average with equal weights, not the plain network. `query="input"` has w_t = W_t x_t, W_t started at 0.

The paper has language models only; in vision this is new, and so are this project's choices:
- in ResNets the ReLU after the add is kept, around A: x_{t+1} = ReLU(α_t ⊙ f_t + Σ_{i<t} α_i ⊙ v_i);
- sources are those of a stage; v_0 is its first block's shortcut, projected, which has the shape of the branches. In
  grafts, where that block is closed and has none, v_0 is zero: a source that takes weight and gives nothing;
- the first block reads the stage's input as it is, since there is only one source, and the last reader, which in the
  paper stands at the network's end, at the end of every stage;
- the input-dependent query is made of block t's shortcut, the stream that it was given.
"""

import dataclasses
import typing
from collections.abc import Collection
from typing import Any, Literal, final

from crosslayer.mechanisms.depth_attention import DepthAttention, InputDepthAttention, Sources, check_group
from crosslayer.mechanisms.interface import Add, PositionwiseMechanism, StageShape
from crosslayer.mechanisms.registry import Paper, register, unknown_name
from crosslayer.ops.depth import weighted_sum
from crosslayer.ops.shapes import InputMap, Map

QueryName = Literal["static", "input"]
_ATTENTION = {"static": DepthAttention, "input": InputDepthAttention}


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of AttnRes.

    Args:
        group: how many branches make a source; 1 is the full form.
        query: a learned vector per block (`static`), or projected from the stream at every position (`input`).
    """

    group: int = 1
    query: QueryName = "static"

    def __post_init__(self) -> None:
        check_group(self.group)
        if self.query not in typing.get_args(QueryName):
            raise ValueError(unknown_name("query", self.query, typing.get_args(QueryName)))


@final
class AttentionResiduals(PositionwiseMechanism[Sources | None]):
    """A query and a key weight per block; the state is the sources."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        self.over_depth = _ATTENTION[config.query](shape.depth, shape.channels, config.group)

    def unused_parameters(self, unread: Collection[int] = (), no_shortcut: Collection[int] = ()) -> set[str]:
        """Where there is no shortcut, an input-dependent query of it is zero."""
        idle = no_shortcut if isinstance(self.over_depth, InputDepthAttention) else ()
        return {f"over_depth.{part}.{t}" for part in ("queries", "norms") for t in idle}

    def start(self, x: InputMap, carry: Any) -> None:
        """No source, until the first shortcut has the branches' shape."""
        return

    def join(self, t: int, branch: Map, shortcut: Map, state: Sources | None, add: Add) -> tuple[Map, Sources]:
        """The stream is attended to anew; the newest source takes the branch's place in the block's own add."""
        sources = self.over_depth.add(t, branch, state or self.over_depth.begin(shortcut))
        weights = self.over_depth.weights(t, sources, shortcut)
        *values, newest = (source.value for source in sources.in_order())
        return add(weights[-1].to(newest.dtype) * newest, weighted_sum(weights[:-1], values)), sources

    def attention(self, state: Sources | None) -> Any:
        """Of every block on the stage's input and on the branches up to its own."""
        return None if state is None else self.over_depth.attention(state)


_PAPER = Paper(
    "2603.15031",
    2026,
    reads="branches, as keys at every position",
    writes="replaces the add",
    state="T + 1 maps",
    block="2*c",
    results="none: language only",
)
register("attnres", AttentionResiduals, Config, _PAPER)
