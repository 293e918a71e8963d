"""DLA-L, dynamic layer attention, light form: arXiv 2406.13392, Eq. 4-6.

One recurrent cell per stage, shared by its blocks and by both paths. At block t, with x its output after the last
activation, y = GAP(x), s its shortcut branch (after its projection, where it has one), which plays o_{t-1}, and
gate(v) = σ(memory of cell(v, c_t)):

    forward path     c_t = cell(y, c_{t-1})
    backward path    õ = s ⊙ gate(GAP(s)) + DW3_stage(s)
    merge            z = σ(q·k / √d) ⊙ DW3(x) + λ ⊙ õ,   q = C1D(y),  k = C1D'(y)
                     out = x + DropPath(BN(z))

λ is a vector per block and starts from N(0, 1). Deviations of the released code from the paper, both here by default:
σ where the paper's softmax over one layer would be 1, and the extra depth-wise kernel DW3_stage, shared by the blocks
of a stage (`stage_convolution=False` is the paper's own form).

On tokens (new here: the papers have DLA in ResNets only): the same equations with LN_x(x) for x, LN_o of the block's
input for s, and GELU on the value, in the dress of MRLA-L's own token form (layer_attention.py).

`context="first_sample"` is a fault of the released code: see dla_b.py before you use it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from crosslayer.mechanisms import dla_b
from crosslayer.mechanisms.cells import CELLS, CellState
from crosslayer.mechanisms.interface import StageShape
from crosslayer.mechanisms.layer_attention import Coefficients, LightLayerAttention
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.ops.layer_attention import head_gate, recursion_shares
from crosslayer.ops.shapes import ChannelScale, HeadGate, InputMap, Vector


@dataclasses.dataclass(frozen=True)
class Config(dla_b.Config):
    """Options of DLA-L: those of DLA-B, and two more.

    Args:
        stage_convolution: add DW3_stage(s), as released; without it, the paper's own form.
        norm_start: the scale that BN starts with; 0 makes every block begin as the plain network's.
    """

    stage_convolution: bool = True
    norm_start: float = 1.0


class State(NamedTuple):
    """The context, and what each block so far gave its own value and carried on (to be drawn)."""

    context: CellState | None
    gates: list[HeadGate]
    scales: list[ChannelScale]


@final
class DLALight(LightLayerAttention[State]):
    """DLA-L in one stage: what the light forms share, one cell and one extra kernel."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config.head_channels, config.drop_path, config.norm_start)
        self.seen_context = dla_b.CONTEXTS[config.context]
        reduction = config.reduction or dla_b.published_reduction(shape)
        self.cell = CELLS[config.cell](shape.channels, reduction, config.activation)
        self.stage_kernel = _depthwise_kernel(shape.channels) if config.stage_convolution else None

    def start(self, x: InputMap, carry: Any) -> State:
        """No context."""
        return State(None, [], [])

    def coefficients(
        self, t: int, pooled: Vector, pooled_shortcut: Callable[[], Vector], state: State
    ) -> tuple[Coefficients, State]:
        """Steps the context and refreshes the shortcut: λ ⊙ õ = (λ ⊙ gate) ⊙ s + DW3(s; λ ⊙ K_stage)."""
        context = self.cell(pooled, state.context or self.cell.start(pooled))
        refreshed = self.cell(pooled_shortcut(), self.seen_context(context))
        projection, scale = self.projections[t], self.lambdas[t]
        gate = head_gate(projection.query(pooled), projection.key(pooled), self.head_channels)
        kernel = None if self.stage_kernel is None else scale[:, None, None, None] * self.stage_kernel
        scale = scale * torch.sigmoid(refreshed.memory)
        return Coefficients(gate, scale, kernel), State(context, [*state.gates, gate], [*state.scales, scale])

    def attention(self, state: State) -> Tensor:
        """The share of every earlier block that the recursion implies; DW3_stage is left out of the account."""
        return recursion_shares(state.gates, state.scales)


def _depthwise_kernel(channels: int) -> nn.Parameter:
    """A 3×3 depth-wise kernel, started as nn.Conv2d starts its own."""
    return nn.Parameter(nn.Conv2d(channels, channels, 3, groups=channels, bias=False).weight.detach())


_PAPER = Paper(
    "2406.13392",
    2024,
    reads="output and shortcut, pooled",
    writes="adds to the output",
    state="one vector",
    block="2*k + 12*c",
    stage="8*c*(c//16) + 2*(c//16) + 15*c",
    results="ImageNet, ResNet-50: top-1 78.0",
)
register("dla_l", DLALight, Config, _PAPER)
