"""Squeeze-and-excitation (SE), arXiv 1709.01507, Eq. 2-4.

    u ← u ⊙ σ(W2 ReLU(W1 GAP(u)))          on the residual branch u, before it is added

Deviation: no biases, as in the tables' released code (the paper's own text leaves them out, too).
"""

import dataclasses
from typing import final

from torch import nn

from crosslayer.mechanisms.interface import Mechanism, StageShape, check_reduction, register
from crosslayer.mechanisms.module_list import TypedModuleList
from crosslayer.ops import global_average_pool
from crosslayer.ops.shapes import Map, Taps, Vector


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
        self.gates = TypedModuleList(squeeze_gate(shape.channels, squeezed) for _ in range(shape.depth))

    def gate(self, t: int, taps: Taps, state: None) -> tuple[Map, None]:
        """Eq. 4: every channel scaled by its gate."""
        gate: Vector = self.gates[t](global_average_pool(taps[-1]))
        return taps[-1] * gate.to(taps[-1].dtype)[..., None, None], state


def squeeze_gate(channels: int, squeezed: int) -> nn.Sequential:
    """σ(W2 ReLU(W1 ·)), without biases."""
    return nn.Sequential(
        nn.Linear(channels, squeezed, bias=False),
        nn.ReLU(),
        nn.Linear(squeezed, channels, bias=False),
        nn.Sigmoid(),
    )


register("se", SqueezeExcitation, Config)
