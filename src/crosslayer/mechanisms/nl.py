"""NL, non-local block (embedded Gaussian): arXiv 1711.07971, Eq. 1, 4 and 6.

One block, between the last two blocks of a stage, acts on their map x:

    y_i = Σ_j a_ij W_g x_j,   a_i = softmax over positions j of (W_θ x_i)·(W_φ x_j) / √c'
    x ← x + BN(W_z y)                                  c' = c/2 channels within

BN starts at weight 0, so that a fresh block changes nothing. As in the tables there is one such block, in stage c4; a
network with fewer stages has it in its last.

The scale 1/√c' is the released code's; the paper prints none. Deviations from the released code: only W_θ has a bias,
for the others' are constants that softmax or BN take out again, and keys and values are not max-pooled, which it does
for videos. (timm's NonLocalAttn is the same block with the scale 1/√c.)
"""

import dataclasses
from collections.abc import Collection
from typing import final

import torch.nn.functional as F
from torch import nn

from crosslayer.mechanisms.interface import Mechanism, StageShape
from crosslayer.mechanisms.layers import acts_in, check_stages
from crosslayer.mechanisms.registry import Paper, check_reduction, register
from crosslayer.ops.shapes import Map


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of NL.

    Args:
        stages: stages that have a block, from 0; where the network ends before the first of them, its last.
        reduction: c/c', channels per channel within.
    """

    stages: tuple[int, ...] = (2,)
    reduction: int = 2

    def __post_init__(self) -> None:
        check_stages(self.stages)
        check_reduction(self.reduction)


def non_local_mean(query: Map, key: Map, value: Map) -> Map:
    """Eq. 1: every position's mean of all values, weighted by the softmax of query · key / √channels."""
    q, k, v = (x.flatten(2).transpose(1, 2).unsqueeze(1) for x in (query, key, value))
    mean = F.scaled_dot_product_attention(q, k, v).squeeze(1)
    return mean.transpose(1, 2).unflatten(2, value.shape[2:])


@final
class NonLocalBlock(nn.Module):
    """Adds BN(W_z y)."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, inner, 1, bias=False)
        self.project = nn.Conv2d(inner, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Map) -> Map:
        """Eq. 6."""
        return x + self.norm(self.project(non_local_mean(self.query(x), self.key(x), self.value(x))))


@final
class NonLocal(Mechanism[None]):
    """One block in the stages that have one, before the stage's last block; no state."""

    starts_as_identity = True

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        inner = max(1, shape.channels // config.reduction)
        acts = acts_in(shape, config.stages)
        self.block = NonLocalBlock(shape.channels, inner) if acts else nn.Identity()
        self.after = max(0, shape.depth - 2) if acts else None

    def acts_on(self, t: int) -> bool:
        """The last block but one of a stage that has a non-local block."""
        return t == self.after

    def unused_parameters(self, unread: Collection[int] = (), no_shortcut: Collection[int] = ()) -> set[str]:
        """All of a block whose map nobody reads."""
        return {name for name, _ in self.named_parameters()} if self.after in unread else set()

    def merge(self, t: int, out: Map, shortcut: Map, state: None) -> tuple[Map, None]:
        """The map between the stage's last two blocks, with what every position sees of all others."""
        return self.block(out) if self.acts_on(t) else out, state


_PAPER = Paper(
    "1711.07971",
    2017,
    reads="output, over positions",
    writes="adds to one output",
    state="none",
    block="0",
    stage="2*c*c + 5*c//2",
    results="see the paper",
)
register("nl", NonLocal, Config, _PAPER)
