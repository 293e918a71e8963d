"""Value residual, ResFormer: arXiv 2410.17897.

Every block attends to a mean of its own values and the first block's, before the softmax weighs them:

    V_t ← λ V_1 + (1-λ) V_t        for t ≥ 2, λ = ½ as in the released code

It acts at once and has no parameters. The first block is that of the stage.

Left out: the paper's learned and sparse λ, which the released code does not have; SVFormer, which takes V_1 for every
block and leaves their own projections without use; NeuTRENO, which adds to what the heads put out.
"""

import dataclasses
from typing import Any, final

import torch

from crosslayer.mechanisms.interface import Attention, PositionwiseMechanism, StageShape
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.ops.shapes import Heads, InputMap


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the value residual.

    Args:
        weight: λ, the first block's part.
    """

    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.weight < 1:
            raise ValueError(f"weight is {self.weight}; it is the first values' part and lies between 0 and 1")


@final
class ValueResidual(PositionwiseMechanism[Heads | None]):
    """No parameters; the state is the first block's values."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        self.weight = config.weight

    def acts_on(self, t: int) -> bool:
        """All blocks but the first."""
        return t > 0

    def start(self, x: InputMap, carry: Any) -> None:
        """No values yet."""
        return

    def attend(
        self, t: int, q: Heads, k: Heads, v: Heads, state: Heads | None, attention: Attention
    ) -> tuple[Heads, Heads]:
        """The block's own attention, to the mean of values."""
        if state is None:
            return attention(q, k, v), v
        return attention(q, k, torch.lerp(v, state, self.weight)), state


_PAPER = Paper(
    "2410.17897",
    2024,
    reads="values of the first block",
    writes="replaces the values",
    state="values of one block",
    block="0",
    results="none: language only",
)
register("value_residual", ValueResidual, Config, _PAPER)
