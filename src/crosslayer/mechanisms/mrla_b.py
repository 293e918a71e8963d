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

from crosslayer.mechanisms.forms import FORMS, normalised_prefix
from crosslayer.mechanisms.interface import Mechanism, StageShape, register
from crosslayer.mechanisms.module_list import TypedModuleList
from crosslayer.mechanisms.query_key_value import QueryKeyValue, channels_per_head, check_attention_options
from crosslayer.ops import KnownPool, StoredValue, history_weights, pool_of, store_value
from crosslayer.ops.shapes import GrowingWeights, HeadWeights, History, InputMap, LongerHistory, Map, Prefix, Vector


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
class MRLABase(Mechanism[State]):
    """MRLA-B in one stage: projections and a normalised branch per block."""

    pools_output = True

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        form, channels, blocks = FORMS[shape.layout], shape.channels, range(shape.depth)
        self.head_channels = channels_per_head(channels, config.head_channels or form.head_channels)
        self.depth, self.window = shape.depth, form.window or shape.depth
        self.norms = TypedModuleList(form.norm(channels) for _ in blocks)
        self.projections = TypedModuleList(QueryKeyValue(channels) for _ in blocks)
        self.branches = TypedModuleList(form.base_branch(channels, config.drop_path) for _ in blocks)

    def start(self, x: InputMap, carry: Tensor | None) -> State:
        """Nothing stored."""
        return State([], None, [])

    def merge(self, t: int, out: KnownPool, shortcut: Map, state: State) -> tuple[Map, State]:
        """Attends from block t to itself and all blocks before it."""
        projection, x = self.projections[t], self.norms[t](out.of)
        if t % self.window == 0:
            state = State([], None, state.weights)
        query, key = projection.query_key(pool_of(x, out))
        values = [*state.values, store_value(projection.value_map(x).of, readers(t, self.window, self.depth))]
        keys = append_layer(state.keys, key)
        weights = history_weights(query, keys, self.head_channels)
        return self.branches[t].merge(out.of, values, weights), State(values, keys, [*state.weights, weights])

    def merge_prefix(self, t: int, prefix: Prefix) -> Prefix:
        """Adds a class token's normalised copy to it."""
        return prefix + self.branches[t](normalised_prefix(self.norms[t], prefix))

    def attention(self, state: State) -> Tensor:
        """The softmax weights, zero above the diagonal."""
        return stack_attention(state.weights)


def readers(t: int, window: int, depth: int) -> int:
    """How many blocks read what block t stores: itself and those after it, until all is forgotten or the stage ends."""
    return min(window - t % window, depth - t)


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
