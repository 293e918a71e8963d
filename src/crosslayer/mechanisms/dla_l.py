"""DLA-L, dynamic layer attention, light form: arXiv 2406.13392, Eq. 4-6.

One recurrent cell per stage, shared by its blocks and by both paths. At block t, with x its output after the last
activation, y = GAP(x), s its shortcut branch (after its projection, where it has one), which plays o_{t-1}, and
gate(v) = σ(memory of cell(v, c_t)):

    forward path     c_t = cell(y, c_{t-1})
    backward path    õ = s ⊙ gate(GAP(s)) + DW3_stage(s)
    merge            z = σ(q·k / √d) ⊙ DW3(x) + λ ⊙ õ,   q = C1D(y),  k = C1D'(y)
                     out = x + DropPath(BN(z))

λ is a vector per block and starts from N(0, 1). Deviations of the released code from the paper, both here by default:
σ where the paper's softmax over one layer would be 1, and the extra depth-wise kernel DW3_stage, shared by the blocks
of a stage (`stage_convolution=False` is the paper's own form).

On tokens (new here: the papers have DLA in ResNets only): the same equations with LN_x(x) for x, LN_o of the block's
input for s, and GELU on the value, in the dress of MRLA-L's own token form (forms.py).

`context="first_sample"` is a fault of the released code: see dla_b.py before you use it.
"""

import dataclasses
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from crosslayer.mechanisms import dla_b
from crosslayer.mechanisms.cells import CELLS, Context
from crosslayer.mechanisms.forms import FORMS, normalised_prefix
from crosslayer.mechanisms.interface import Mechanism, StageShape, register
from crosslayer.mechanisms.light_inference import LightParts, inferred, light_parts
from crosslayer.mechanisms.module_list import TypedModuleList
from crosslayer.mechanisms.mrla_l import recursion_shares
from crosslayer.mechanisms.query_key_value import QueryKeyValue, channels_per_head
from crosslayer.ops import KnownPool, Normalisation, Pending, head_gate, pool_of
from crosslayer.ops.shapes import ChannelScale, HeadGate, InputMap, Map, Prefix


@dataclasses.dataclass(frozen=True)
class Config(dla_b.Config):
    """Options of DLA-L: those of DLA-B, and two more.

    Args:
        stage_convolution: add DW3_stage(s), as released; without it, the paper's own form.
        norm_start: the scale that BN starts with; 0 makes every block begin as the plain network's.
    """

    stage_convolution: bool = True
    norm_start: float = 1.0


class State(NamedTuple):
    """The context, the last output's pool, what each block so far gave its own value and carried on (to be drawn)."""

    context: Context | None
    pool: KnownPool | None
    gates: list[HeadGate]
    carried: list[ChannelScale]


@final
class DLALight(Mechanism[State]):
    """DLA-L in one stage: one cell and one extra kernel, projections, λ and a normalised branch per block."""

    pools_output = True

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        form, channels, blocks = FORMS[shape.layout], shape.channels, range(shape.depth)
        self.head_channels = channels_per_head(channels, config.head_channels or form.head_channels)
        self.seen_context = dla_b.CONTEXTS[config.context]
        reduction = config.reduction or dla_b.published_reduction(shape)
        self.cell = CELLS[config.cell](channels, reduction, config.activation)
        self.stage_kernel = depthwise_kernel(channels) if config.stage_convolution else None
        self.norms = TypedModuleList(form.norm(channels) for _ in blocks)
        self.shortcut_norms = TypedModuleList(form.norm(channels) for _ in blocks)
        self.projections = TypedModuleList(QueryKeyValue(channels) for _ in blocks)
        self.lambdas = nn.ParameterList(torch.randn(channels) for _ in blocks)
        self.branches = TypedModuleList(
            form.light_branch(channels, config.drop_path, config.norm_start) for _ in blocks
        )

    def start(self, x: InputMap, carry: Tensor | None) -> State:
        """No context."""
        return State(None, None, [], [])

    def end_block(
        self, t: int, convolved: Map, shortcut: Pending, norm: Normalisation, state: State
    ) -> tuple[Map, State]:
        """In inference all of it by one op, where that runs."""
        made = inferred(self.parts(t), convolved, shortcut, norm, state.pool, state.context)
        if made is None:
            return super().end_block(t, convolved, shortcut, norm, state)
        shown = [*state.gates, made.gate], [*state.carried, made.carried]
        return made.out.of, State(made.context, made.out, *shown)

    def merge(self, t: int, out: KnownPool, shortcut: Map, state: State) -> tuple[Map, State]:
        """Steps the context, refreshes the shortcut, adds block t's value and what the shortcut carries on."""
        projection, x, carry = self.projections[t], self.norms[t](out.of), self.shortcut_norms[t](shortcut)
        pooled = pool_of(x, out)
        own, old = self.cell.of_input(torch.stack([pooled, pool_of(carry, state.pool)])).unbind()
        before = state.context or self.cell.context(self.cell.start(pooled))
        context = self.cell.context(self.cell.step(own, *before))
        refreshed = self.cell.step(old, *self.seen_context(context))
        query, key = projection.query_key(pooled)
        gate = head_gate(query, key, self.head_channels)
        carried = self.lambdas[t] * torch.sigmoid(refreshed.memory)
        kernel = self.carried_kernel(t)
        merged = self.branches[t].merge(out, x, carry, projection.value.weight, gate, carried, kernel, pooled=True)
        return merged.of, State(context, merged, [*state.gates, gate], [*state.carried, carried])

    def merge_prefix(self, t: int, prefix: Prefix) -> Prefix:
        """Adds a class token's normalised copy to it."""
        return prefix + self.branches[t](normalised_prefix(self.norms[t], prefix))

    def parts(self, t: int) -> LightParts:
        """What block t has."""
        own = self.seen_context is dla_b.own_context
        return light_parts(self, t)._replace(cell=self.cell, own_context=own, stage_kernel=self.stage_kernel)

    def carried_kernel(self, t: int) -> Tensor | None:
        """λ_t folded into the stage's kernel: λ ⊙ DW3(s; K) = DW3(s; λ ⊙ K)."""
        return None if self.stage_kernel is None else self.lambdas[t][:, None, None, None] * self.stage_kernel

    def attention(self, state: State) -> Tensor:
        """The share of every earlier block that the recursion implies; DW3_stage is left out of the account."""
        return recursion_shares(state.gates, state.carried)


def depthwise_kernel(channels: int) -> nn.Parameter:
    """A 3×3 depth-wise kernel, started as nn.Conv2d starts its own."""
    return nn.Parameter(nn.Conv2d(channels, channels, 3, groups=channels, bias=False).weight.detach())


register("dla_l", DLALight, Config)
