"""DenseFormer's depth-weighted average (DWA): arXiv 2402.02622.

With X_0 what the stage is given, X_t the output of block t = 1 … T and Y_{t-1} what that block was given (Y_0 = X_0):

    X_t = Block_t(Y_{t-1}),   Y_t = Σ_{i ∈ S_t} α_{t,i} X_i  where `period` divides t, else X_t
    S_t = { i ≤ t : i ≡ t (mod dilation) }            α_t starts at (0, …, 0, 1): exactly the plain network

Averages are of the blocks' own outputs, not of averages.

The paper has language models, which are one stage. This project's choices: averages are within a stage, and t counts
its blocks; in ResNets X_t is taken after the last ReLU, and X_0 is the first block's shortcut, projected (zero in a
graft's block that has none).
"""

import dataclasses
from typing import Any, final

import torch
from torch import nn

from crosslayer.mechanisms.interface import PositionwiseMechanism, StageShape
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.ops.depth import rows, weighted_sum
from crosslayer.ops.shapes import InputMap, Map


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of DenseFormer.

    Args:
        dilation: every how many-th output an average takes in, counted back from its own block.
        period: after every how many-th block there is an average.
    """

    dilation: int = 1
    period: int = 1

    def __post_init__(self) -> None:
        if min(self.dilation, self.period) < 1:
            raise ValueError(f"dilation is {self.dilation} and period {self.period}; each must be at least 1")


@final
class DepthWeightedAverage(PositionwiseMechanism[tuple[Map, ...]]):
    """⌊t/dilation⌋ + 1 numbers for every period-th block; the state is X_0 and the outputs so far."""

    starts_as_identity = True

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        self.dilation, self.period = config.dilation, config.period
        counts = {t: (t + 1) // self.dilation + 1 for t in range(shape.depth) if self.acts_on(t)}
        self.weights = nn.ParameterDict({str(t): torch.eye(count)[-1].clone() for t, count in counts.items()})

    def acts_on(self, t: int) -> bool:
        """Every period-th block."""
        return (t + 1) % self.period == 0

    def start(self, x: InputMap, carry: Any) -> tuple[Map, ...]:
        """Nothing, until the first shortcut has the outputs' shape."""
        return ()

    def merge(self, t: int, out: Map, shortcut: Map, state: tuple[Map, ...]) -> tuple[Map, tuple[Map, ...]]:
        """The average, if it is the block's turn; later ones take in the output itself."""
        outs = (*(state or (shortcut,)), out)
        if not self.acts_on(t):
            return out, outs
        averaged = outs[(t + 1) % self.dilation :: self.dilation]
        return weighted_sum(rows(self.weights[str(t)], len(averaged)), averaged), outs

    def attention(self, state: tuple[Map, ...]) -> Any:
        """Weights of every average, X_0 first; they have signs, and need not sum to one."""
        matrix = torch.zeros(len(state) - 1, len(state))
        for t in range(len(matrix)):
            if self.acts_on(t):
                matrix[t, (t + 1) % self.dilation : t + 2 : self.dilation] = self.weights[str(t)].detach().cpu()
            else:
                matrix[t, t + 1] = 1
        return matrix.expand(len(state[0]), 1, -1, -1)


_PAPER = Paper(
    "2402.02622",
    2024,
    reads="outputs",
    writes="replaces the output",
    state="T + 1 maps",
    block="(T + 3)/2",
    results="none: language only",
)
register("denseformer", DepthWeightedAverage, Config, _PAPER)
