"""MRLA-B, multi-head recurrent layer attention, base form: arXiv 2302.03985, Eq. 6-8.

At block t of a stage, with x its output after the last activation and y = GAP(x):

    q = C1D(y),  k_t = C1D'(y),  V_t = DW3(x)
    a = softmax over m ≤ t of q·k_m / √d,  per head of d channels
    out = x + DropPath(ReLU(BN(Σ_m a_m V_m)))

Deviations: none from the released code on CIFAR, where d = 32 (the ImageNet code of MRLA's authors has d = 16).
"""

import dataclasses
from typing import NamedTuple, final

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from crosslayer.mechanisms.interface import Mechanism, StageShape, register
from crosslayer.mechanisms.module_list import TypedModuleList
from crosslayer.mechanisms.query_key_value import QueryKeyValue, channels_per_head, check_attention_options
from crosslayer.ops import global_average_pool, history_sum, history_weights
from crosslayer.ops.shapes import GrowingWeights, HeadWeights, History, InputMap, LongerHistory, Map, Vector


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of MRLA-B.

    Args:
        head_channels: d, channels per head; where it does not divide the channels, the largest divisor below.
        drop_path: probability of dropping the attention branch for an image, in training.
    """

    head_channels: int = 32
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        check_attention_options(self.head_channels, self.drop_path)


class State(NamedTuple):
    """The blocks so far: raw values, keys, and each block's attention."""

    values: list[Map]
    keys: History | None
    weights: list[HeadWeights]


@final
class MRLABase(Mechanism[State]):
    """MRLA-B in one stage: projections and a normalised branch per block."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        self.head_channels = channels_per_head(shape.channels, config.head_channels)
        self.projections = TypedModuleList(QueryKeyValue(shape.channels) for _ in range(shape.depth))
        self.branches = TypedModuleList(base_branch(shape.channels, config.drop_path) for _ in range(shape.depth))

    def start(self, x: InputMap, carry: Tensor | None) -> State:
        """Nothing stored."""
        return State([], None, [])

    def merge(self, t: int, out: Map, shortcut: Map, state: State) -> tuple[Map, State]:
        """Attends from block t to itself and all blocks before it."""
        projection = self.projections[t]
        query, key = projection.query_key(global_average_pool(out))
        values = [*state.values, projection.value(out)]
        keys = append_layer(state.keys, key)
        weights = history_weights(query, keys, self.head_channels)
        branch = self.branches[t](history_sum(values, weights))
        return out + branch, State(values, keys, [*state.weights, weights])

    def attention(self, state: State) -> Tensor:
        """The softmax weights, zero above the diagonal."""
        return stack_attention(state.weights)


def base_branch(channels: int, drop_path: float) -> nn.Sequential:
    """DropPath(ReLU(BN(·)))."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), DropPath(drop_path))


def append_layer(history: History | None, new: Vector) -> LongerHistory:
    """One more layer at the end of a history."""
    new = new.unsqueeze(1)
    return new if history is None else torch.cat([history, new], dim=1)


def stack_attention(weights: list[GrowingWeights]) -> Tensor:
    """Each block's attention as one matrix per image and head: batch × heads × l × m, zero where m > l."""
    depth = len(weights)
    return torch.stack([nn.functional.pad(w, (0, depth - w.shape[2])) for w in weights], dim=2)


register("mrla_b", MRLABase, Config)
