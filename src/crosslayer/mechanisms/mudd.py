"""MUDD, multiway dynamic dense connections: arXiv 2502.12170.

What a block's queries, keys and values are made of, and the stream its attention is added to, are four sums over all
that came before, with weights of each position. With X_0 what the stage is given and X_t the output of block t,

    x^C = Σ_{i ≤ t} w_{C,i} X_i        C ∈ { q, k, v, r }, what block t + 1 is given; after the last block r alone
    w   = W_2 GELU( W_1 RMS(X_t) ) + β        at every position, RMS without a weight

W_1 has as many rows as there are weights of four sums, up to the next multiple of 64 (of 64 the one after it, as
released). W_2 starts at 0 and β at (0, …, 0, 1): exactly the plain network. The first block reads X_0 alone.

Queries, keys and values pass the block's one normalisation, as released with `sepln` off, and each is projected by the
block's whole projection, of which it takes its third: three times the work, and to the bit the plain network's numbers.

Left out: the released models' MLPs, which grow wider with depth. The paper has language models only. Sums are within a
stage here.
"""

from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crosslayer.mechanisms.interface import PositionwiseMechanism, StageShape
from crosslayer.mechanisms.layers import TypedModuleList
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.ops.depth import inverse_rms, pointwise, rows, weighted_sum
from crosslayer.ops.shapes import InputMap, Map

_EPS = 1e-6


class State(NamedTuple):
    """X_0, …, X_t, and what the next block's queries, keys and values are made of."""

    outs: tuple[Map, ...]
    qkv: tuple[Map, Map, Map]


class _Weights(nn.Module):
    """w of every position, for `ways` sums over `sources` maps."""

    def __init__(self, channels: int, sources: int, ways: int) -> None:
        super().__init__()
        hidden = (4 * sources // 64 + 1) * 64
        self.ways, self.sources = ways, sources
        self.inner = nn.Parameter(torch.randn(hidden, channels) / channels**0.5)
        self.outer = nn.Parameter(torch.zeros(ways * sources, hidden))
        self.bias = nn.Parameter(torch.eye(sources)[-1].repeat(ways))

    def forward(self, x: Map) -> list[list[Tensor]]:
        """For every sum the weight of every source, batch × 1 × height × width."""
        hidden = F.gelu(pointwise(x * inverse_rms(x, _EPS).to(x.dtype), self.inner))
        weights = pointwise(hidden, self.outer) + self.bias.to(hidden.dtype)[:, None, None]
        by_way = weights.unflatten(1, (self.ways, self.sources, 1)).permute(1, 2, 0, 3, 4, 5)
        return [rows(way, self.sources) for way in rows(by_way, self.ways)]


@final
class MultiwayDenseConnections(PositionwiseMechanism[State]):
    """A `_Weights` after every block."""

    starts_as_identity = True

    def __init__(self, shape: StageShape, config: Any) -> None:
        super().__init__(shape, config)
        ways = [4] * (shape.depth - 1) + [1]
        self.weights = TypedModuleList[_Weights](_Weights(shape.channels, t + 2, way) for t, way in enumerate(ways))

    def start(self, x: InputMap, carry: Any) -> State:
        """X_0, of which everything is made."""
        return State((x,), (x, x, x))

    def read_qkv(self, t: int, x: Map, state: State) -> tuple[tuple[Map, Map, Map], State]:
        """The sums for queries, keys and values."""
        return state.qkv, state

    def merge(self, t: int, out: Map, shortcut: Map, state: State) -> tuple[Map, State]:
        """The sum r, which is the next block's shortcut or the stage's end."""
        outs = (*state.outs, out)
        sums = [weighted_sum(way, outs) for way in self.weights[t](out)]
        q, k, v = sums[:3] if len(sums) == 4 else 3 * sums
        return sums[-1], State(outs, (q, k, v))


_PAPER = Paper(
    "2502.12170",
    2025,
    reads="outputs",
    writes="replaces queries', keys' and values' inputs, and the output",
    state="T + 1 maps",
    block="64*c + 130*T + 195",
    stage="-195",
    results="none: language only",
)
register("mudd", MultiwayDenseConnections, paper=_PAPER)
