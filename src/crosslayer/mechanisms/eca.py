"""Efficient channel attention (ECA), arXiv 1910.03151, Eq. 9 and 12.

    u ← u ⊙ σ(C1D_k(GAP(u)))               on the residual branch u, before it is added

The kernel size k follows from the channels (Eq. 12), as in the tables' CIFAR code.
"""

from typing import final

import torch

from crosslayer.mechanisms.channel_convolution import ChannelConvolution
from crosslayer.mechanisms.interface import Mechanism, NoOptions, StageShape, register
from crosslayer.mechanisms.module_list import TypedModuleList
from crosslayer.ops import global_average_pool
from crosslayer.ops.shapes import Map, Taps


@final
class EfficientChannelAttention(Mechanism[None]):
    """One channel convolution per block; no state."""

    def __init__(self, shape: StageShape, config: NoOptions) -> None:
        super().__init__(shape, config)
        self.gates = TypedModuleList(ChannelConvolution(shape.channels) for _ in range(shape.depth))

    def gate(self, t: int, taps: Taps, state: None) -> tuple[Map, None]:
        """Eq. 9: every channel scaled by its gate."""
        gate = torch.sigmoid(self.gates[t](global_average_pool(taps[-1])))
        return taps[-1] * gate.to(taps[-1].dtype)[..., None, None], state


register("eca", EfficientChannelAttention)
