"""XAttnRes with SAPQ, a pseudo-query for every position: arXiv 2604.03297, in the equations of its released code.

Between two blocks of a stage, with x what block t is given and o_i the output of block i:

    block t reads  A(q; o_0, …, o_{t-1}, x)       q(p) = Conv1×1(x)(p) / √c, without bias, 0 at the start

where A is attention over depth: a softmax over sources at every position, of q · RMS_w(v) (depth_attention.py). x is
o_{t-1} again, as released, so that the last block's output counts twice; where it is the only one, for the block after
the first, there is nothing to choose from, and no query. At the start a block reads an average of the outputs so far,
not the plain network's map; its shortcut is still x (the released blocks have none of their own).

The released network is a U-Net for medical images. The DKVMR skip between its encoder and decoder is no part of this.
In a graft the closed block adds its shortcut to what it read; the graft takes the difference out of its output again.
"""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import nn

from crosslayer.mechanisms.interface import PositionwiseMechanism, StageShape
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.ops.depth import pointwise, rms_product, softmax_over_depth, weighted_sum
from crosslayer.ops.shapes import InputMap, Map

_EPS = 1e-8


@final
class PositionQueryAttention(PositionwiseMechanism[tuple[Map, ...]]):
    """A projection and a key weight per block from the third on; the state is the outputs so far."""

    def __init__(self, shape: StageShape, config: Any) -> None:
        super().__init__(shape, config)
        blocks = [str(t) for t in range(shape.depth) if self.acts_on(t)]
        self.depth = shape.depth
        self.queries = nn.ParameterDict({t: torch.zeros(shape.channels, shape.channels) for t in blocks})
        self.norms = nn.ParameterDict({t: torch.ones(shape.channels) for t in blocks})

    def acts_on(self, t: int) -> bool:
        """Blocks with two different outputs before them."""
        return t > 1

    def start(self, x: InputMap, carry: Any) -> tuple[Map, ...]:
        """No output yet."""
        return ()

    def read(self, t: int, x: InputMap, state: tuple[Map, ...]) -> tuple[InputMap, tuple[Map, ...]]:
        """What the position asks for of the past and the present."""
        return (self.attended(t, x, [*state, x]) if self.acts_on(t) else x), state

    def attended(self, t: int, x: Map, sources: Sequence[Map]) -> Map:
        """A with block t's query of x."""
        query = pointwise(x, self.queries[str(t)] / x.shape[1] ** 0.5)
        weights = softmax_over_depth([rms_product(query, self.norms[str(t)], v, _EPS) for v in sources])
        return weighted_sum(weights, sources)

    def merge(self, t: int, out: Map, shortcut: Map, state: tuple[Map, ...]) -> tuple[Map, tuple[Map, ...]]:
        """The output as it is; later blocks may ask for it."""
        return out, ((*state, out) if t + 1 < self.depth else state)


_PAPER = Paper(
    "2604.03297",
    2026,
    reads="outputs, as keys at every position",
    writes="replaces what a block reads",
    state="T - 1 maps",
    block="c*c + c",
    stage="-2*c*c - 2*c",
    results="medical segmentation",
)
register("xattnres", PositionQueryAttention, paper=_PAPER)
