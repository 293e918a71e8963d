"""BA, bridge attention: arXiv 2112.04150.

Inside one block, with F_i the pooled inner activations (after their ReLU) and F the pooled residual branch u:

    s = BN(W F) + Σ_i BN(W_i F_i)               each to c/16 numbers, no biases
    u ← u ⊙ σ(W' ReLU(s))

Deviation from the released code: a single image can be trained on. Its pooled vectors have no variance over the batch,
so they are normalised by the running statistics.
"""

import dataclasses
from typing import final

import torch
import torch.nn.functional as F
from torch import nn

from crosslayer.mechanisms.interface import Mechanism, StageShape, check_reduction, register
from crosslayer.mechanisms.module_list import TypedModuleList
from crosslayer.ops import global_average_pool
from crosslayer.ops.shapes import Map, Taps, Vector


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of BA.

    Args:
        reduction: r, channels of the branch per number that the bridge carries.
    """

    reduction: int = 16

    def __post_init__(self) -> None:
        check_reduction(self.reduction)


@final
class VectorBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of vectors that falls back on its running statistics where the batch is one image."""

    def forward(self, x: Vector) -> Vector:  # pyright: ignore[reportIncompatibleMethodOverride]  # one vector in
        """Batch × channels in and out."""
        if self.training and x.shape[0] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


@final
class Bridge(nn.Module):
    """The gate of one block, from all its activations."""

    def __init__(self, tap_channels: tuple[int, ...], reduction: int) -> None:
        super().__init__()
        *inner, own = tap_channels
        squeezed = max(1, own // reduction)
        self.inner = TypedModuleList(fusion(channels, squeezed) for channels in inner)
        self.own = fusion(own, squeezed)
        self.excite = nn.Linear(squeezed, own, bias=False)

    def forward(self, taps: Taps) -> Vector:
        """σ(W' ReLU(s))."""
        *inner, own = (global_average_pool(tap) for tap in taps)
        s = self.own(own) + sum(fuse(pooled) for fuse, pooled in zip(self.inner, inner, strict=True))
        return torch.sigmoid(self.excite(torch.relu(s)))


def fusion(channels: int, squeezed: int) -> nn.Sequential:
    """BN(W ·)."""
    return nn.Sequential(nn.Linear(channels, squeezed, bias=False), VectorBatchNorm(squeezed))


@final
class BridgeAttention(Mechanism[None]):
    """One bridge per block; no state."""

    reaches_into_blocks = True

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        self.gates = TypedModuleList(Bridge(shape.tap_channels, config.reduction) for _ in range(shape.depth))

    def gate(self, t: int, taps: Taps, state: None) -> tuple[Map, None]:
        """Every channel scaled by its gate."""
        return taps[-1] * self.gates[t](taps).to(taps[-1].dtype)[..., None, None], state


register("ba", BridgeAttention, Config)
