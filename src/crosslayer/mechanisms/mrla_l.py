"""MRLA-L, multi-head recurrent layer attention, light form: arXiv 2302.03985, Eq. 9-10.

At block t, with x its output after the last activation, y = GAP(x) and s its shortcut branch (after its projection,
where it has one), which plays the attention output o_{t-1} of the block before:

    z = σ(q·k / √d) ⊙ DW3(x) + λ ⊙ s,   q = C1D(y),  k = C1D'(y)
    out = x + DropPath(BN(z))

On tokens, V = GELU(DW3(LN_x(x))) with q and k from LN_x(x), s is LN_o of the block's input, and there is no BN: see
layer_attention.py.

λ is a vector per block and starts from N(0, 1). The softmax of the paper runs over one layer here and would be 1;
the released code has σ, and so has this.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, final

from torch import Tensor

from crosslayer.mechanisms.interface import StageShape
from crosslayer.mechanisms.layer_attention import Coefficients, LightLayerAttention, check_attention_options
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.ops.layer_attention import head_gate, recursion_shares
from crosslayer.ops.shapes import ChannelScale, HeadGate, InputMap, Vector


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of MRLA-L.

    Args:
        head_channels: d, channels per head (absent: 32 for maps, 16 for tokens); where it does not divide the
            channels, the largest divisor below.
        drop_path: probability of dropping the attention branch for an image, in training.
        norm_start: the scale that BN starts with; 0 makes every block begin as the plain network's.
    """

    head_channels: int | None = None
    drop_path: float = 0.0
    norm_start: float = 1.0

    def __post_init__(self) -> None:
        check_attention_options(self.head_channels, self.drop_path)


class State(NamedTuple):
    """What each block so far gave its own value and what it carried on: needed to draw the attention only."""

    gates: list[HeadGate]
    scales: list[ChannelScale]


@final
class MRLALight(LightLayerAttention[State]):
    """MRLA-L in one stage."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config.head_channels, config.drop_path, config.norm_start)

    def start(self, x: InputMap, carry: Any) -> State:
        """Nothing carried."""
        return State([], [])

    def coefficients(
        self, t: int, pooled: Vector, pooled_shortcut: Callable[[], Vector], state: State
    ) -> tuple[Coefficients, State]:
        """The gate of block t's value, and λ."""
        projection = self.projections[t]
        gate = head_gate(projection.query(pooled), projection.key(pooled), self.head_channels)
        scale = self.lambdas[t] * pooled.new_ones(pooled.shape[0], 1)
        return Coefficients(gate, scale), State([*state.gates, gate], [*state.scales, scale])

    def attention(self, state: State) -> Tensor:
        """The share of every earlier block that the recursion implies."""
        return recursion_shares(state.gates, state.scales)


_PAPER = Paper(
    "2302.03985",
    2023,
    reads="output and shortcut, pooled",
    writes="adds to the output",
    state="none",
    block="2*k + 12*c",
    results="ImageNet, ResNet-50: top-1 77.7",
)
register("mrla_l", MRLALight, Config, _PAPER)
