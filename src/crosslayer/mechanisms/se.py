"""Squeeze-and-excitation (SE), arXiv 1709.01507, Eq. 2-4.

    u ← u ⊙ σ(W2 ReLU(W1 GAP(u)))          on the residual branch u, before it is added

Deviation: no biases, as in the tables' released code (the paper's own text leaves them out, too).
"""

import dataclasses
from typing import final

from torch import nn

from crosslayer.mechanisms.interface import Mechanism, StageShape
from crosslayer.mechanisms.registry import Paper, check_reduction, register
from crosslayer.ops.pooling import global_average_pool
from crosslayer.ops.shapes import Map, Vector


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of SE.

    Args:
        reduction: r, channels per squeezed channel.
    """

    reduction: int = 16

    def __post_init__(self) -> None:
        check_reduction(self.reduction)


@final
class SqueezeExcitation(Mechanism[None]):
    """One squeeze net per block; no state."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        squeezed = max(1, shape.channels // config.reduction)
        self.gates = nn.ModuleList(_squeeze_gate(shape.channels, squeezed) for _ in range(shape.depth))

    def gate(self, t: int, branch: Map, state: None) -> tuple[Map, None]:
        """Eq. 4: every channel scaled by its gate."""
        gate: Vector = self.gates[t](global_average_pool(branch))
        return branch * gate.to(branch.dtype)[..., None, None], state


def _squeeze_gate(channels: int, squeezed: int) -> nn.Sequential:
    """σ(W2 ReLU(W1 ·)), without biases."""
    return nn.Sequential(
        nn.Linear(channels, squeezed, bias=False),
        nn.ReLU(),
        nn.Linear(squeezed, channels, bias=False),
        nn.Sigmoid(),
    )


_PAPER = Paper(
    "1709.01507",
    2017,
    reads="branch, pooled",
    writes="gates the branch",
    state="none",
    block="c*c//8",
    results="ImageNet, ResNet-50: top-1 76.7",
)
register("se", SqueezeExcitation, Config, _PAPER)
