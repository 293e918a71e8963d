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
token form (forms.py). Stored layers are forgotten at every fourth block; the context goes on through the stage.

`context="first_sample"` is a fault of the released code, kept so that its numbers can be reproduced: every image
of a batch is refreshed with the context of the FIRST image, so that what is predicted for an image depends on what
else is in its batch, in training and in evaluation. Never use it for anything but such a comparison.
"""

import dataclasses
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from crosslayer.mechanisms.base_form import BaseForm
from crosslayer.mechanisms.cells import CELLS, ActivationName, CellName, Context, check_cell_options
from crosslayer.mechanisms.interface import StageShape, register, unknown_name
from crosslayer.mechanisms.mrla_b import append_layer, stack_attention
from crosslayer.mechanisms.query_key_value import check_attention_options
from crosslayer.ops import KnownPool, StoredValue, history_weights, pool_of, store_value
from crosslayer.ops.shapes import HeadWeights, History, InputMap, Map, Vector

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


class State(NamedTuple):
    """The blocks so far: the context, raw values, what refreshes have made of them, and each block's attention."""

    context: Context | None
    values: list[StoredValue]
    stored: Stored | None
    weights: list[HeadWeights]


@final
class DLABase(BaseForm[State]):
    """DLA-B in one stage: what the base forms share, and one cell."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config.head_channels, config.drop_path)
        self.seen_context = CONTEXTS[config.context]
        reduction = config.reduction or published_reduction(shape)
        self.cell = CELLS[config.cell](shape.channels, reduction, config.activation)

    def start(self, x: InputMap, carry: Tensor | None) -> State:
        """Nothing stored, no context."""
        return State(None, [], None, [])

    def attend(self, t: int, out: Map, pooled: Vector, value: KnownPool, state: State) -> tuple[Map, State]:
        """Steps the context, refreshes what is stored, attends from block t to all blocks up to it."""
        if t % self.window == 0:
            state = State(state.context, [], None, state.weights)
        before = state.context or self.cell.context(self.cell.start(pooled))
        own, old = self.inputs(pooled, state.stored)
        context = self.cell.context(self.cell.step(own, *before))
        stored = state.stored and self.refresh(state.stored, old, context)
        query, key = self.projections[t].query_key(pooled)
        stored = store(stored, key, pool_of(value.of, value))
        values = [*state.values, store_value(value.of, self.readers(t))]
        weights = history_weights(query, stored.keys, self.head_channels)
        merged = self.branches[t].merge(out, values, weights, stored.gates)
        return merged, State(context, values, stored, [*state.weights, weights])

    def inputs(self, pooled: Vector, stored: Stored | None) -> tuple[Tensor, Tensor]:
        """What the cell makes of a block's own pool, and of all stored keys and pools, in one call."""
        rows = torch.cat([pooled.unsqueeze(1), *((stored.keys, stored.pools) if stored else ())], dim=1)
        own, old = self.cell.of_input(rows).tensor_split([1], dim=1)
        return own.squeeze(1), old

    def refresh(self, stored: Stored, rows: Tensor, context: Context) -> Stored:
        """The backward path: one step of the cell gates every stored key and value; `rows` is what it makes of them."""
        recalled, memory = (one.unsqueeze(1) for one in self.seen_context(context))
        key_gates, value_gates = torch.sigmoid(self.cell.step(rows, recalled, memory).memory).chunk(2, dim=1)
        return Stored(stored.keys * key_gates, stored.pools * value_gates, stored.gates * value_gates)

    def attention(self, state: State) -> Tensor:
        """The softmax weights, zero above the diagonal."""
        return stack_attention(state.weights)


def published_reduction(shape: StageShape) -> int:
    """The released code's r: 4 on CIFAR, 16 on ImageNet."""
    return 4 if shape.small_images else 16


def store(stored: Stored | None, key: Tensor, pool: Tensor) -> Stored:
    """One more layer, not yet refreshed."""
    keys, pools, gates = stored or (None, None, None)
    ones = torch.ones_like(pool)
    return Stored(append_layer(keys, key), append_layer(pools, pool), append_layer(gates, ones))


def own_context(context: Context) -> Context:
    """Every image's own context, as the paper defines it."""
    return context


def first_sample_context(context: Context) -> Context:
    """The first image's context for the whole batch: the released code indexes its state one level too deep."""
    return Context(context.recalled[:1], context.memory[:1])


CONTEXTS = {"per_sample": own_context, "first_sample": first_sample_context}

register("dla_b", DLABase, Config)
