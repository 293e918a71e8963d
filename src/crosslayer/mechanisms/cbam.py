"""CBAM, convolutional block attention module: arXiv 1807.06521, Eq. 1-3.

On the residual branch u, before it is added:

    u ← u ⊙ σ(MLP(mean_hw u) + MLP(max_hw u))          per channel; MLP: c → c/r → c with ReLU
    u ← u ⊙ σ(BN(Conv7×7 [mean_c u, max_c u]))         per position

timm's CbamModule, with the biases, the momentum of BN (0.01) and the start of BN (weight 0, so that the second gate is
1/2 everywhere at first) that the released code has.

Deviation from the released code: the 7×7 kernel reads mean and max in this order, there max comes first.
"""

import dataclasses
from typing import final

from torch import nn

from crosslayer.mechanisms.interface import Mechanism, StageShape
from crosslayer.mechanisms.layers import TypedModuleList
from crosslayer.mechanisms.registry import Paper, check_reduction, register
from crosslayer.ops.shapes import Map


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of CBAM.

    Args:
        reduction: r, channels per squeezed channel.
        kernel_size: side of the spatial gate's kernel, odd.
    """

    reduction: int = 16
    kernel_size: int = 7

    def __post_init__(self) -> None:
        check_reduction(self.reduction)
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {self.kernel_size}; it must be odd")


@final
class ConvolutionalBlockAttention(Mechanism[None]):
    """One module per block; no state."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        self.gates = TypedModuleList(_block_attention(shape.channels, config) for _ in range(shape.depth))

    def gate(self, t: int, branch: Map, state: None) -> tuple[Map, None]:
        """Every channel scaled by its gate, then every position by its own."""
        return self.gates[t](branch), state


def _block_attention(channels: int, config: Config) -> nn.Module:
    """One block's module, as the released code starts it."""
    from timm.layers.cbam import CbamModule

    squeezed = max(1, channels // config.reduction)
    module = CbamModule(channels, rd_channels=squeezed, spatial_kernel_size=config.kernel_size, mlp_bias=True)
    for part in module.spatial.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.01
            nn.init.zeros_(part.weight)
    return module


_PAPER = Paper(
    "1807.06521",
    2018,
    reads="branch, pooled",
    writes="gates the branch",
    state="none",
    block="c*c//8 + 17*c//16 + 100",
    results="ImageNet, ResNet-50: top-1 77.3",
)
register("cbam", ConvolutionalBlockAttention, Config, _PAPER)
