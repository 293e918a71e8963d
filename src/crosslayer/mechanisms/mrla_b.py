"""MRLA-B, multi-head recurrent layer attention, base form: arXiv 2302.03985, Eq. 6-8.

At block t of a stage, with x its output after the last activation and y = GAP(x):

    q = C1D(y),  k_t = C1D'(y),  V_t = DW3(x)
    a = softmax over m ≤ t of q·k_m / √d,  per head of d channels
    out = x + DropPath(ReLU(BN(Σ_m a_m V_m)))

On tokens, LN before and nothing after the attention, and nothing kept beyond four blocks: see layer_attention.py.

Deviations: none from the released code, where d = 32 on CIFAR (on ImageNet 16: `head_channels=16`).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, final

from torch import Tensor

from crosslayer.mechanisms.interface import StageShape
from crosslayer.mechanisms.layer_attention import BaseLayerAttention, BaseState, check_attention_options
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.ops.layer_attention import append_layer, history_weights, layer_factors, stack_attention
from crosslayer.ops.shapes import HeadWeights, History, Vector


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of MRLA-B.

    Args:
        head_channels: d, channels per head (absent: 32 for maps, 16 for tokens); where it does not divide the
            channels, the largest divisor below.
        drop_path: probability of dropping the attention branch for an image, in training.
    """

    head_channels: int | None = None
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        check_attention_options(self.head_channels, self.drop_path)


class Memory(NamedTuple):
    """The stored layers' keys, and each block's attention so far."""

    keys: History | None
    weights: list[HeadWeights]


@final
class MRLABase(BaseLayerAttention[Memory]):
    """MRLA-B in one stage."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config.head_channels, config.drop_path)

    def forget(self, memory: Memory | None) -> Memory:
        """No keys."""
        return Memory(None, memory.weights if memory else [])

    def coefficients(
        self, t: int, pooled: Vector, pooled_value: Callable[[], Vector], memory: Memory
    ) -> tuple[History, Memory]:
        """The softmax over the stored keys."""
        projection = self.projections[t]
        keys = append_layer(memory.keys, projection.key(pooled))
        weights = history_weights(projection.query(pooled), keys, self.head_channels)
        return layer_factors(weights, pooled.shape[1]), Memory(keys, [*memory.weights, weights])

    def attention(self, state: BaseState) -> Tensor:
        """The softmax weights, zero above the diagonal."""
        return stack_attention(state.memory.weights)


_PAPER = Paper(
    "2302.03985",
    2023,
    reads="outputs as keys and values",
    writes="adds to the output",
    state="T maps and keys",
    block="2*k + 11*c",
    results="see the paper",
)
register("mrla_b", MRLABase, Config, _PAPER)
