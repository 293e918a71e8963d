"""A², double attention: arXiv 1810.11579, Eq. 1-6.

After every block of the stages it acts in, with x the block's output and i its positions:

    G = Σ_i A_i B_iᵀ,   A = W_A x,  B = softmax over positions of W_B x         gather: c_m × c_n numbers
    z_i = G V_i,        V = softmax over channels of W_V x                      distribute
    x ← x + BN(W_z z)                                                           W_z: c_m → c

c_m = c_n = c/4, in stages c3 and c4 (res3 and res4 of the paper). The cost grows with the map, not with its square.

Deviations: BN after W_z, with weight 0 at first, so that a fresh block changes nothing. Of the projections W_V alone
has a bias: the others' are constants that softmax or BN take out again. Not compared with code of the authors'.
"""

import dataclasses
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crosslayer.mechanisms.interface import Mechanism, StageShape
from crosslayer.mechanisms.layers import TypedModuleList, acts_in, check_stages
from crosslayer.mechanisms.registry import Paper, check_reduction, register
from crosslayer.ops.shapes import Map


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of A².

    Args:
        feature_reduction: c/c_m, channels per gathered feature.
        attention_reduction: c/c_n, channels per attention map.
        stages: stages it acts in, from 0; where the network ends before the first of them, its last.
    """

    feature_reduction: int = 4
    attention_reduction: int = 4
    stages: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        check_stages(self.stages)
        check_reduction(self.feature_reduction, "feature_reduction")
        check_reduction(self.attention_reduction, "attention_reduction")


def double_attention(
    features: Float[Tensor, "batch features height width"],
    gathers: Float[Tensor, "batch maps height width"],
    distributes: Float[Tensor, "batch maps height width"],
) -> Float[Tensor, "batch features height width"]:
    """Eq. 6: Z = (A softmax(B)ᵀ) softmax(V), from the logits of both attentions."""
    gather = torch.softmax(gathers.flatten(2), dim=2)
    gathered = features.flatten(2) @ gather.transpose(1, 2)
    return torch.einsum("bmn,bnhw->bmhw", gathered, torch.softmax(distributes, dim=1).to(gathered.dtype))


@final
class DoubleAttentionBlock(nn.Module):
    """Adds BN(W_z z)."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        features = max(1, channels // config.feature_reduction)
        maps = max(1, channels // config.attention_reduction)
        self.features = nn.Conv2d(channels, features, 1, bias=False)
        self.gathers = nn.Conv2d(channels, maps, 1, bias=False)
        self.distributes = nn.Conv2d(channels, maps, 1)
        self.project = nn.Conv2d(features, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Map) -> Map:
        """Gathers, distributes, adds."""
        z = double_attention(self.features(x), self.gathers(x), self.distributes(x))
        return x + self.norm(self.project(z))


@final
class DoubleAttention(Mechanism[None]):
    """One double attention per block, in the stages it acts in; no state."""

    starts_as_identity = True

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        self.acts = acts_in(shape, config.stages)
        self.attentions = TypedModuleList(
            DoubleAttentionBlock(shape.channels, config) if self.acts else nn.Identity() for _ in range(shape.depth)
        )

    def acts_on(self, t: int) -> bool:
        """Every block of the stages it acts in."""
        return self.acts

    def merge(self, t: int, out: Map, shortcut: Map, state: None) -> tuple[Map, None]:
        """The block's output with what was gathered from all of it."""
        return self.attentions[t](out), state


_PAPER = Paper(
    "1810.11579",
    2018,
    reads="output, over positions",
    writes="adds to the output",
    state="none",
    block="c*c + 2*c + c//4",
    results="ImageNet, ResNet-50: top-1 77.0",
)
register("a2", DoubleAttention, Config, _PAPER)
