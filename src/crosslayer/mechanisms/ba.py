"""BA, bridge attention: arXiv 2112.04150.

Inside one block, with F_i the pooled inner activations (after their ReLU) and F the pooled residual branch u:

    s = BN(W F) + Σ_i BN(W_i F_i)               each to c/16 numbers, no biases
    u ← u ⊙ σ(W' ReLU(s))

Deviation from the released code: a single image can be trained on. Its pooled vectors have no variance over the batch,
so they are normalised by the running statistics.
"""

import dataclasses
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crosslayer.mechanisms.interface import Mechanism, StageShape
from crosslayer.mechanisms.layers import TypedModuleList
from crosslayer.mechanisms.registry import Paper, check_reduction, register
from crosslayer.ops.pooling import global_average_pool
from crosslayer.ops.shapes import Inner, InputMap, Map, Vector


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

    def __init__(self, inner: tuple[int, ...], own: int, reduction: int) -> None:
        super().__init__()
        squeezed = max(1, own // reduction)
        self.inner = TypedModuleList(_fusion(channels, squeezed) for channels in inner)
        self.own = _fusion(own, squeezed)
        self.excite = nn.Linear(squeezed, own, bias=False)

    def forward(self, inner: list[Tensor], own: Vector) -> Vector:
        """σ(W' ReLU(s)), from pooled activations."""
        s = self.own(own) + sum(fuse(pooled) for fuse, pooled in zip(self.inner, inner, strict=True))
        return torch.sigmoid(self.excite(torch.relu(s)))


def _fusion(channels: int, squeezed: int) -> nn.Sequential:
    """BN(W ·)."""
    return nn.Sequential(nn.Linear(channels, squeezed, bias=False), VectorBatchNorm(squeezed))


@final
class BridgeAttention(Mechanism[list[Tensor]]):
    """One bridge per block; the state is the pooled inner activations of the block at hand."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        self.gates = TypedModuleList(
            Bridge(shape.inner_channels, shape.channels, config.reduction) for _ in range(shape.depth)
        )

    def start(self, x: InputMap, carry: Any) -> list[Tensor]:
        """Nothing seen."""
        return []

    def inside(self, t: int, inner: Inner, state: list[Tensor]) -> list[Tensor]:
        """The pools of what the block is made of."""
        return [global_average_pool(activation) for activation in inner]

    def gate(self, t: int, branch: Map, state: list[Tensor]) -> tuple[Map, list[Tensor]]:
        """Every channel scaled by its gate."""
        gate = self.gates[t](state, global_average_pool(branch))
        return branch * gate.to(branch.dtype)[..., None, None], []


_PAPER = Paper(
    "2112.04150",
    2021,
    reads="inner activations and branch, pooled",
    writes="gates the branch",
    state="none",
    block="5*c*c//32 + 3*c//8",
    results="see the paper",
)
register("ba", BridgeAttention, Config, _PAPER)
