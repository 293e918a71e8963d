"""MRLA-B, multi-head recurrent layer attention, base form: arXiv 2302.03985, Eq. 6-8.

At block t of a stage, with x its output after the last activation and y = GAP(x):

    q = C1D(y),  k_t = C1D'(y),  V_t = DW3(x)
    a = softmax over m ≤ t of q·k_m / √d,  per head of d channels
    out = x + DropPath(ReLU(BN(Σ_m a_m V_m)))

On tokens, LN before and nothing after the attention, and nothing kept beyond four blocks: see forms.py.

Deviations: none from the released code, where d = 32 on CIFAR (on ImageNet 16: `head_channels=16`).
"""

import dataclasses
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from crosslayer.mechanisms.base_form import BaseForm
from crosslayer.mechanisms.interface import StageShape, register
from crosslayer.mechanisms.query_key_value import check_attention_options
from crosslayer.ops import KnownPool, StoredValue, history_weights, store_value
from crosslayer.ops.shapes import GrowingWeights, HeadWeights, History, InputMap, LongerHistory, Map, Vector


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


class State(NamedTuple):
    """The blocks so far: raw values, keys, and each block's attention."""

    values: list[StoredValue]
    keys: History | None
    weights: list[HeadWeights]


@final
class MRLABase(BaseForm[State]):
    """MRLA-B in one stage."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config.head_channels, config.drop_path)

    def start(self, x: InputMap, carry: Tensor | None) -> State:
        """Nothing stored."""
        return State([], None, [])

    def attend(self, t: int, out: Map, pooled: Vector, value: KnownPool, state: State) -> tuple[Map, State]:
        """Attends from block t to itself and all blocks before it."""
        if t % self.window == 0:
            state = State([], None, state.weights)
        query, key = self.projections[t].query_key(pooled)
        values = [*state.values, store_value(value.of, self.readers(t))]
        keys = append_layer(state.keys, key)
        weights = history_weights(query, keys, self.head_channels)
        return self.branches[t].merge(out, values, weights), State(values, keys, [*state.weights, weights])

    def attention(self, state: State) -> Tensor:
        """The softmax weights, zero above the diagonal."""
        return stack_attention(state.weights)


def append_layer(history: History | None, new: Vector) -> LongerHistory:
    """One more layer at the end of a history."""
    new = new.unsqueeze(1)
    return new if history is None else torch.cat([history, new], dim=1)


def stack_attention(weights: list[GrowingWeights]) -> Tensor:
    """Each block's attention as one matrix per image and head: batch × heads × l × m, zero where m > l.

    The last weight of every block is its own; what is missing before the first has been forgotten.
    """
    last = len(weights) - 1
    rows = [nn.functional.pad(w, (block + 1 - w.shape[2], last - block)) for block, w in enumerate(weights)]
    return torch.stack(rows, dim=2)


register("mrla_b", MRLABase, Config)
