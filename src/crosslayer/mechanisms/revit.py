"""ReViT, residual attention: arXiv 2402.11301. With `gate="none"` RealFormer: arXiv 2012.11747.

Scores are carried over the blocks. In every head, with S_1 = Q_1 K_1ᵀ / √d,

    S_t = α Q_t K_tᵀ / √d + (1-α) S_{t-1}          out = softmax(S_t) V_t

α is one learned number for all blocks, ½ at the start. RealFormer has the plain sum, S_t = Q_t K_tᵀ / √d + S_{t-1}.

Both act at once: what one block attends to, the next do too. A mask of the block's own hides tokens after the sum.

Left out: what ReViT does where heads or the number of tokens change between blocks, in hierarchical networks, where
scores here are those of one stage; RealFormer's normalisation after the add, which is the network's affair.
"""

import dataclasses
import typing
from typing import Any, Literal, final

import torch
from torch import nn

from crosslayer.mechanisms.interface import Attention, PositionwiseMechanism, StageShape
from crosslayer.mechanisms.registry import Paper, register, unknown_name
from crosslayer.ops.attention import attention_scores
from crosslayer.ops.shapes import Heads, InputMap, Scores

GateName = Literal["alpha", "none"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of ReViT.

    Args:
        gate: a learned mean of a block's scores and those before (`alpha`, ReViT), or their sum (`none`, RealFormer).
    """

    gate: GateName = "alpha"

    def __post_init__(self) -> None:
        if self.gate not in typing.get_args(GateName):
            raise ValueError(unknown_name("gate", self.gate, typing.get_args(GateName)))


@final
class ResidualAttention(PositionwiseMechanism[Scores | None]):
    """One number per stage; the state is the scores of the block before."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        self.alpha = nn.Parameter(torch.tensor(0.5)) if config.gate == "alpha" else None

    def acts_on(self, t: int) -> bool:
        """All blocks but the first."""
        return t > 0

    def start(self, x: InputMap, carry: Any) -> None:
        """No scores yet."""
        return

    def attend(
        self, t: int, q: Heads, k: Heads, v: Heads, state: Scores | None, attention: Attention
    ) -> tuple[Heads, Scores]:
        """The block's own softmax, of scores that those before have joined."""
        scores = attention_scores(q, k)
        if state is None:
            return attention(q, k, v), scores
        scores = scores + state if self.alpha is None else torch.lerp(state, scores, self.alpha.to(scores.dtype))
        return attention.weights(scores) @ v, scores


_PAPER = Paper(
    "2402.11301",
    2024,
    reads="scores of the block before",
    writes="replaces the scores",
    state="one score for every two tokens and head",
    block="0",
    stage="1",
    results="ImageNet, ReViT-B: top-1 82.4",
)
register("revit", ResidualAttention, Config, _PAPER)
