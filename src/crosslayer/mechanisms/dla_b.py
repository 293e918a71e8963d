"""DLA-B, dynamic layer attention, base form: arXiv 2406.13392, Eq. 4-6.

One recurrent cell per stage, shared by its blocks, by the forward and by the backward path. At block t, with x its
output after the last activation, y = GAP(x), and gate(v) = σ(memory of cell(v, c_t)):

    forward path     c_t = cell(y, c_{t-1})
    backward path    k_m ← k_m ⊙ gate(k_m),  V_m ← V_m ⊙ gate(GAP(V_m))      for every stored m < t
    attention        as in MRLA-B, on the refreshed keys and values

How it is computed: a gate is one number per image, layer and channel and commutes with GAP, so no map is ever
rewritten. Kept are the raw V_m, their refreshed pools, and the running product G_m of their gates; all refreshes of
a block are one call of the cell, and Σ_m a_m V_m becomes Σ_m (a_m · G_m) ⊙ V_m.

On tokens (new here: the papers have DLA in ResNets only): the same equations on LN_x(x), in the dress of MRLA-B's own
token form (layer_attention.py). Stored layers are forgotten at every fourth block; the context goes on.

`context="first_sample"` is a fault of the released code, kept so that its numbers can be reproduced: every image
of a batch is refreshed with the context of the FIRST image, so that what is predicted for an image depends on what
else is in its batch, in training and in evaluation. Never use it for anything but such a comparison.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from crosslayer.mechanisms.cells import CELLS, ActivationName, CellName, CellState, check_cell_options
from crosslayer.mechanisms.interface import StageShape
from crosslayer.mechanisms.layer_attention import BaseLayerAttention, BaseState, check_attention_options
from crosslayer.mechanisms.registry import Paper, register, unknown_name
from crosslayer.ops.layer_attention import append_layer, history_weights, layer_factors, stack_attention
from crosslayer.ops.shapes import HeadWeights, History, Vector

ContextName = Literal["per_sample", "first_sample"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of both forms of DLA.

    Args:
        cell: the recurrent cell along depth; `released` and `paper` are the two forms of the DSU.
        reduction: r, channels per squeezed channel in the cell (absent: 4 in networks for small images, otherwise 16);
            `lstm` and `rnn` have no squeeze.
        activation: what the context goes through before it is fed back, in `dsu`, `paper` and `dia` (Table 5).
        context: `per_sample`, or the released code's fault `first_sample` (see the module's text).
        head_channels: d, channels per head (absent: 32 for maps, 16 for tokens); where it does not divide the
            channels, the largest divisor below.
        drop_path: probability of dropping the attention branch for an image, in training.
    """

    cell: CellName = "released"
    reduction: int | None = None
    activation: ActivationName = "sigmoid"
    context: ContextName = "per_sample"
    head_channels: int | None = None
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        check_cell_options(self.cell, self.reduction, self.activation)
        check_attention_options(self.head_channels, self.drop_path)
        if self.context not in CONTEXTS:
            raise ValueError(unknown_name("context", self.context, CONTEXTS))


class Stored(NamedTuple):
    """Every stored layer as refreshed so far, batch × layers × channels each."""

    keys: History
    pools: History
    gates: History


class Memory(NamedTuple):
    """The context, what refreshes have made of the stored layers, and each block's attention so far."""

    context: CellState | None
    stored: Stored | None
    weights: list[HeadWeights]


@final
class DLABase(BaseLayerAttention[Memory]):
    """DLA-B in one stage: what the base forms share, and one cell."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config.head_channels, config.drop_path)
        self.seen_context = CONTEXTS[config.context]
        reduction = config.reduction or published_reduction(shape)
        self.cell = CELLS[config.cell](shape.channels, reduction, config.activation)

    def forget(self, memory: Memory | None) -> Memory:
        """The context goes on."""
        return Memory(memory.context, None, memory.weights) if memory else Memory(None, None, [])

    def coefficients(
        self, t: int, pooled: Vector, pooled_value: Callable[[], Vector], memory: Memory
    ) -> tuple[History, Memory]:
        """Steps the context, refreshes what is stored, attends: a_m · G_m."""
        context = self.cell(pooled, memory.context or self.cell.start(pooled))
        stored = self.refresh(memory.stored, context) if memory.stored else None
        projection = self.projections[t]
        stored = _store(stored, projection.key(pooled), pooled_value())
        weights = history_weights(projection.query(pooled), stored.keys, self.head_channels)
        factors = layer_factors(weights, pooled.shape[1]) * stored.gates
        return factors, Memory(context, stored, [*memory.weights, weights])

    def refresh(self, stored: Stored, context: CellState) -> Stored:
        """The backward path: one step of the cell gates every stored key and value; the context stays."""
        hidden, remembered = (one.unsqueeze(1) for one in self.seen_context(context))
        rows = torch.cat([stored.keys, stored.pools], dim=1)
        gates = torch.sigmoid(self.cell(rows, CellState(hidden, remembered)).memory)
        key_gates, value_gates = gates.chunk(2, dim=1)
        return Stored(stored.keys * key_gates, stored.pools * value_gates, stored.gates * value_gates)

    def attention(self, state: BaseState) -> Tensor:
        """The softmax weights, zero above the diagonal."""
        return stack_attention(state.memory.weights)


def published_reduction(shape: StageShape) -> int:
    """The released code's r: 4 on CIFAR, 16 on ImageNet."""
    return 4 if shape.small_images else 16


def _store(stored: Stored | None, key: Vector, pool: Vector) -> Stored:
    """One more layer, not yet refreshed."""
    keys, pools, gates = stored or (None, None, None)
    ones = torch.ones_like(pool)
    return Stored(append_layer(keys, key), append_layer(pools, pool), append_layer(gates, ones))


def own_context(context: CellState) -> CellState:
    """Every image's own context, as the paper defines it."""
    return context


def first_sample_context(context: CellState) -> CellState:
    """The first image's context for the whole batch: the released code indexes its state one level too deep."""
    return CellState(context.hidden[:1], context.memory[:1])


CONTEXTS = {"per_sample": own_context, "first_sample": first_sample_context}

_PAPER = Paper(
    "2406.13392",
    2024,
    reads="outputs as keys and values",
    writes="adds to the output",
    state="T maps, keys, gates; a vector",
    block="2*k + 11*c",
    stage="8*c*(c//16) + 2*(c//16) + 6*c",
    results="CIFAR only",
)
register("dla_b", DLABase, Config, _PAPER)
