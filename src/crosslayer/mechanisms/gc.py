"""GC, global context block: arXiv 1904.11492, Eq. 6.

On the residual branch u, before it is added:

    context = Σ_i a_i u_i,   a = softmax over positions of w·u_i
    u ← u + W2 ReLU(LN(W1 context))                    W1: c → c/r, W2: c/r → c

W2 and its bias start at 0, so that a fresh block changes nothing. timm's GlobalContext, with the released ε of LN.

Used in stages c3 to c5 with r = 16, as in the published settings ("all GC").

Deviations: at least four channels remain after the squeeze, for LN to normalise. From the released code: w·u has no
bias, which softmax would take out again.
"""

import dataclasses
from typing import final

from torch import nn

from crosslayer.mechanisms.interface import Mechanism, StageShape
from crosslayer.mechanisms.layers import TypedModuleList, acts_in, check_stages
from crosslayer.mechanisms.registry import Paper, check_reduction, register
from crosslayer.ops.shapes import Map


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of GC.

    Args:
        reduction: r, channels per squeezed channel; at least four remain.
        stages: stages it acts in, from 0; where the network ends before the first of them, its last.
    """

    reduction: int = 16
    stages: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        check_stages(self.stages)
        check_reduction(self.reduction)


@final
class GlobalContextAttention(Mechanism[None]):
    """One context block per block, in the stages it acts in; no state."""

    starts_as_identity = True

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        squeezed = max(4, shape.channels // config.reduction)
        self.acts = acts_in(shape, config.stages)
        self.contexts = TypedModuleList(
            _context_block(shape.channels, squeezed) if self.acts else nn.Identity() for _ in range(shape.depth)
        )

    def acts_on(self, t: int) -> bool:
        """Every block of the stages it acts in."""
        return self.acts

    def gate(self, t: int, branch: Map, state: None) -> tuple[Map, None]:
        """Every position joined by what the whole map's context says."""
        return self.contexts[t](branch), state


def _context_block(channels: int, squeezed: int) -> nn.Module:
    """One block's module, adding nothing at first."""
    from timm.layers.global_context import GlobalContext
    from timm.layers.mlp import ConvMlp

    block = GlobalContext(channels, fuse_add=True, fuse_scale=False, rd_channels=squeezed)
    transform = block.mlp_add
    assert block.conv_attn is not None, "use_attn"
    assert isinstance(transform, ConvMlp), "fuse_add"
    assert isinstance(transform.norm, nn.LayerNorm), "timm's own normalisation"
    assert transform.fc2.bias is not None, "timm's default"
    block.conv_attn.register_parameter("bias", None)
    transform.norm.eps = 1e-5
    nn.init.zeros_(transform.fc2.bias)
    return block


_PAPER = Paper(
    "1904.11492",
    2019,
    reads="branch, over positions",
    writes="adds to the branch",
    state="none",
    block="c*c//8 + 2*c + 3*c//16",
    results="ImageNet, ResNet-50: top-1 77.7",
)
register("gc", GlobalContextAttention, Config, _PAPER)
