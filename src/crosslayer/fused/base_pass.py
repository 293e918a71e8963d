"""Base layer attention (MRLA-B, DLA-B) with its map formula in fused ops.

What is computed is the mechanism's `merge`; its coefficients are asked of the mechanism itself, between the ops:

    x = ReLU(BN(c) + s), V = DW(x; K) and their pools      residual_value
    V's slots, in which later blocks leave its gradient    store
    f_m                                                    the mechanism's coefficients
    out = x + DropPath(ReLU(BN(Σ_m f_m ⊙ V_m)))            history_sum_norm

In the backward pass x and the sum are made anew: only the values wait for it, which all blocks share.
"""

from typing import Any, cast

from timm.layers.drop import DropPath
from torch import nn

from crosslayer.fused.fused_pass import FusedPass, FusedState, overridden
from crosslayer.fused.history_sum import Stored, history_sum, history_sum_norm, store
from crosslayer.fused.modules import altered, batch_norm_of, branch_obstacle, depthwise_obstacle, keep_factors
from crosslayer.fused.pooling import global_average_pool
from crosslayer.fused.residual_value import residual_value
from crosslayer.fused.support import runs_triton
from crosslayer.mechanisms import Mechanism
from crosslayer.mechanisms.depth_pass import BlockEnd
from crosslayer.mechanisms.layer_attention import BaseLayerAttention, BaseState, LayerAttention
from crosslayer.ops.shapes import History, Map, Vector


def sum_obstacle(mechanism: LayerAttention[Any], kind: type[LayerAttention[Any]], t: int) -> str | None:
    """Why block t of a mechanism of this kind, whose stored values are summed, cannot be fused, if so."""
    if hook := overridden(type(mechanism), kind):
        return f"its {hook} is its own"
    return altered(mechanism.norms[t], nn.Identity) or branch_obstacle(
        mechanism.branches[t], nn.BatchNorm2d, nn.ReLU, DropPath
    )


def with_sum(x: Map, stored: list[Stored], factors: History, branch: nn.Module) -> Map:
    """x + DropPath(ReLU(BN(Σ_m f_m ⊙ V_m))), in one op where precision and device allow it."""
    norm, relu, drop = cast(nn.Sequential, branch)
    if stored[-1].value.dtype == x.dtype and not runs_triton(x):
        return history_sum_norm(x, stored, factors, batch_norm_of(norm), keep_factors(drop, x))
    return x + drop(relu(norm(history_sum(stored, factors))))


class FusedBasePass(FusedPass):
    """One pass through a stage with base layer attention; beside the state are the values, as they were stored."""

    nothing = ()
    mechanism: BaseLayerAttention[Any]

    @classmethod
    def block_obstacle(cls, mechanism: Mechanism[Any], t: int) -> str | None:
        """Why what the mechanism does to block t cannot be fused, if so."""
        assert isinstance(mechanism, BaseLayerAttention)
        return sum_obstacle(mechanism, BaseLayerAttention, t)

    def fused_end(self, t: int, ending: BlockEnd) -> Map:
        """Three ops."""
        x, shortcut, value = ending.convolved, ending.shortcut(ending.x), self.mechanism.projections[t].value
        if shortcut.dtype != x.dtype or depthwise_obstacle(value) is not None:
            return self.fused_merge(t, ending.activation(ending.norm(x) + shortcut), shortcut)
        made = residual_value(x, shortcut, batch_norm_of(ending.norm), value.weight)
        return self._merged(t, made.out, made.pool, made.value, made.value_pool)

    def fused_merge(self, t: int, out: Map, shortcut: Map) -> Map:
        """The sum and what follows it."""
        value = self.mechanism.projections[t].value(out)
        return self._merged(t, out, global_average_pool(out), value, global_average_pool(value.detach()))

    def _merged(self, t: int, x: Map, pooled: Vector, value: Map, value_pool: Vector) -> Map:
        mechanism, (plain, stored) = self.mechanism, self.state
        if t % mechanism.window == 0:
            plain, stored = BaseState([], mechanism.forget(plain.memory)), ()
        own = store(value, value_pool, self._readers(t))
        factors, memory = mechanism.coefficients(t, pooled, lambda: cast(Vector, own.pool), plain.memory)
        stored = (*stored, own)
        out = with_sum(x, [*stored], factors, mechanism.branches[t])
        self.state = FusedState(BaseState([*plain.values, value], memory), stored)
        return out

    def after_plain(self, before: FusedState, plain: Any) -> tuple[Stored, ...]:
        """The values; one that a plain block has stored is read itself."""
        fresh = [Stored(value) for value in plain.values[len(before.extra) :]]
        kept = before.extra if len(plain.values) > len(before.extra) else ()
        return (*kept, *(fresh or [Stored(v) for v in plain.values]))

    def fork(self) -> "FusedBasePass":
        """The second pass reads values themselves: their slots are the first one's."""
        again = cast(FusedBasePass, super().fork())
        plain, stored = again.state
        again.state = FusedState(plain, tuple(value._replace(slots=None) for value in stored))
        return again

    def _readers(self, t: int) -> int:
        """How many blocks read what block t stores: itself and later ones, until all is forgotten or the stage ends."""
        window, depth = self.mechanism.window, self.mechanism.depth
        return min(window - t % window, depth - t)
