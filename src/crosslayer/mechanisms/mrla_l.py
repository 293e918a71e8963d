"""MRLA-L, multi-head recurrent layer attention, light form: arXiv 2302.03985, Eq. 9-10.

At block t, with x its output after the last activation, y = GAP(x) and s its shortcut branch (after its projection,
where it has one), which plays the attention output o_{t-1} of the block before:

    z = σ(q·k / √d) ⊙ DW3(x) + λ ⊙ s,   q = C1D(y),  k = C1D'(y)
    out = x + DropPath(BN(z))

On tokens, V = GELU(DW3(LN_x(x))) with q and k from LN_x(x), s is LN_o of the block's input, and there is no BN: see
forms.py.

λ is a vector per block and starts from N(0, 1). The softmax of the paper runs over one layer here and would be 1;
the released code has σ, and so has this.
"""

import dataclasses
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from crosslayer.mechanisms import mrla_b
from crosslayer.mechanisms.forms import FORMS, normalised_prefix
from crosslayer.mechanisms.interface import Mechanism, StageShape, register
from crosslayer.mechanisms.light_inference import inferred, light_parts
from crosslayer.mechanisms.module_list import TypedModuleList
from crosslayer.mechanisms.query_key_value import QueryKeyValue, channels_per_head
from crosslayer.ops import KnownPool, Normalisation, Pending, head_gate, pool_of
from crosslayer.ops.shapes import ChannelScale, HeadGate, InputMap, Map, Prefix


@dataclasses.dataclass(frozen=True)
class Config(mrla_b.Config):
    """Options of MRLA-L: those of MRLA-B, and one more.

    Args:
        norm_start: the scale that BN starts with; 0 makes every block begin as the plain network's.
    """

    norm_start: float = 1.0


class State(NamedTuple):
    """What each block so far gave its own value and what it carried on: needed to draw the attention only."""

    gates: list[HeadGate]
    carried: list[ChannelScale]


@final
class MRLALight(Mechanism[State]):
    """MRLA-L in one stage: projections, λ and a normalised branch per block."""

    pools_output = True

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        form, channels, blocks = FORMS[shape.layout], shape.channels, range(shape.depth)
        self.head_channels = channels_per_head(channels, config.head_channels or form.head_channels)
        self.norms = TypedModuleList(form.norm(channels) for _ in blocks)
        self.shortcut_norms = TypedModuleList(form.norm(channels) for _ in blocks)
        self.projections = TypedModuleList(QueryKeyValue(channels) for _ in blocks)
        self.lambdas = nn.ParameterList(torch.randn(channels) for _ in blocks)
        self.branches = TypedModuleList(
            form.light_branch(channels, config.drop_path, config.norm_start) for _ in blocks
        )

    def start(self, x: InputMap, carry: Tensor | None) -> State:
        """Nothing carried."""
        return State([], [])

    def end_block(
        self, t: int, convolved: Map, shortcut: Pending, norm: Normalisation, state: State
    ) -> tuple[Map, State]:
        """In inference all of it by one op, where that runs."""
        made = inferred(light_parts(self, t), convolved, shortcut, norm)
        if made is None:
            return super().end_block(t, convolved, shortcut, norm, state)
        return made.out.of, State([*state.gates, made.gate], [*state.carried, self.lambdas[t].unsqueeze(0)])

    def merge(self, t: int, out: KnownPool, shortcut: Map, state: State) -> tuple[Map, State]:
        """Adds block t's value and what its shortcut carries on."""
        projection, x, carry = self.projections[t], self.norms[t](out.of), self.shortcut_norms[t](shortcut)
        query, key = projection.query_key(pool_of(x, out))
        gate = head_gate(query, key, self.head_channels)
        carried = self.lambdas[t].unsqueeze(0)
        merged = self.branches[t].merge(out, x, carry, projection.value.weight, gate, carried, None)
        return merged.of, State([*state.gates, gate], [*state.carried, carried])

    def merge_prefix(self, t: int, prefix: Prefix) -> Prefix:
        """Adds a class token's normalised copy to it."""
        return prefix + self.branches[t](normalised_prefix(self.norms[t], prefix))

    def attention(self, state: State) -> Tensor:
        """The share of every earlier block that the recursion implies."""
        return recursion_shares(state.gates, state.carried)


def recursion_shares(gates: list[HeadGate], carried: list[ChannelScale]) -> Tensor:
    """Attention of block l on block m that a light form's recursion implies.

    Unrolling o_l = g_l ⊙ V_l + a_l ⊙ o_{l-1}, with a_l what block l carries on (λ_l, times its gate in DLA), gives
    block m's value the factor g_m ⊙ Π_{m<j≤l} a_j in o_l. The share is that factor's magnitude, averaged over the
    channels of a head and divided by its sum over m: batch × heads × l × m, rows sum to one.
    """
    heads = gates[0].shape[1]
    rows: list[Tensor] = []
    factors: list[Tensor] = []
    for gate, carry in zip(gates, carried, strict=True):
        own = gate.repeat_interleave(carry.shape[1] // heads, dim=1)
        factors = [factor * carry.abs() for factor in factors] + [own]
        per_head = torch.stack([f.unflatten(1, (heads, -1)).mean(2) for f in factors], dim=2)
        rows.append(nn.functional.pad(per_head / per_head.sum(2, keepdim=True), (0, len(gates) - len(factors))))
    return torch.stack(rows, dim=2)


register("mrla_l", MRLALight, Config)
