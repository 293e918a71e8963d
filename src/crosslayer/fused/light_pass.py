"""Light layer attention (MRLA-L, DLA-L) with its map formula in fused ops.

What is computed is the mechanism's `merge`; its coefficients are asked of the mechanism itself, between the ops:

    x = ReLU(BN(c) + s) and GAP(x)          residual_output
    g, a, K                                 the mechanism's coefficients
    out = x + DropPath(BN(z)) and GAP(out)  light_merge

In the backward pass x is made anew, and gradients go to the shortcut in one piece. The pool of a block's output is
known when it is the next block's shortcut. In inference all of it is one op, `light_block`, where the cell is DLA's
released one or there is none.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from crosslayer.fused.batch_norm import BatchNorm
from crosslayer.fused.fused_pass import FusedPass, FusedState, overridden
from crosslayer.fused.light_block import LightAttention, light_block, light_block_reason
from crosslayer.fused.light_merge import light_merge
from crosslayer.fused.modules import (
    altered,
    batch_norm_of,
    branch_obstacle,
    depthwise_obstacle,
    keep_factors,
    norm_obstacle,
    squeeze_weights,
    unwatched,
)
from crosslayer.fused.pooled_map import PooledMap
from crosslayer.fused.pooling import global_average_pool, known_pool
from crosslayer.fused.residual_output import Ending, residual_output
from crosslayer.mechanisms import Mechanism
from crosslayer.mechanisms.cells import CellState, ReleasedDSU
from crosslayer.mechanisms.depth_pass import BlockEnd
from crosslayer.mechanisms.dla_b import own_context
from crosslayer.mechanisms.dla_l import DLALight
from crosslayer.mechanisms.dla_l import State as DLAState
from crosslayer.mechanisms.layer_attention import LightLayerAttention
from crosslayer.mechanisms.layers import ChannelConvolution
from crosslayer.mechanisms.mrla_l import MRLALight
from crosslayer.mechanisms.mrla_l import State as MRLAState
from crosslayer.ops.shapes import Map, Vector


class Known(NamedTuple):
    """Beside the mechanism's state.

    Args:
        out: the last output with its pool.
        asked: whether the mechanism asks for pools of shortcuts.
        recalled: what the cell makes of the context's hidden vector.
    """

    out: PooledMap | None = None
    asked: bool = False
    recalled: Tensor | None = None


class _Asking:
    """The pool of a shortcut for those who ask, and whether anybody has."""

    def __init__(self, pool: Callable[[], Vector]) -> None:
        self.pool, self.asked = pool, False

    def __call__(self) -> Vector:
        self.asked = True
        return self.pool()


class FusedLightPass(FusedPass):
    """One pass through a stage with light layer attention."""

    nothing = Known()
    mechanism: LightLayerAttention[Any]

    @classmethod
    def block_obstacle(cls, mechanism: Mechanism[Any], t: int) -> str | None:
        """Why what the mechanism does to block t cannot be fused, if so."""
        assert isinstance(mechanism, LightLayerAttention)
        if hook := overridden(type(mechanism), LightLayerAttention):
            return f"its {hook} is its own"
        norms = altered(mechanism.norms[t], nn.Identity) or altered(mechanism.shortcut_norms[t], nn.Identity)
        value = depthwise_obstacle(mechanism.projections[t].value)
        return norms or value or branch_obstacle(mechanism.branches[t], nn.BatchNorm2d, DropPath)

    def fused_end(self, t: int, ending: BlockEnd) -> Map:
        """One op to infer, two to train."""
        attention = self._to_infer(t, ending)
        return self._trained(t, ending) if attention is None else self._inferred(ending, attention)

    def fused_merge(self, t: int, out: Map, shortcut: Map) -> Map:
        """The merge alone."""
        known = self._pool_of(shortcut)
        asking = _Asking(lambda: global_average_pool(shortcut) if known is None else known_pool(shortcut, known))
        return self._merged(t, out, shortcut, global_average_pool(out), asking)

    def _trained(self, t: int, ending: BlockEnd) -> Map:
        x, shortcut = ending.convolved, ending.shortcut(ending.x)
        if shortcut.dtype != x.dtype:
            return self.fused_merge(t, ending.activation(ending.norm(x) + shortcut), shortcut)
        norm = batch_norm_of(ending.norm)
        made = residual_output(x, shortcut, norm, self._pool_of(shortcut))
        of_shortcut = made.shortcut_pool
        asking = _Asking(lambda: global_average_pool(shortcut) if of_shortcut is None else of_shortcut)
        return self._merged(t, made.out, shortcut, made.pool, asking, made.ending)

    def _merged(
        self, t: int, x: Map, shortcut: Map, pooled: Vector, asking: _Asking, ending: Ending | None = None
    ) -> Map:
        mechanism = self.mechanism
        (gate, scale, kernel), plain = mechanism.coefficients(t, pooled, asking, self.state.plain)
        norm, drop = cast(nn.Sequential, mechanism.branches[t])
        terms = (x, shortcut, mechanism.projections[t].value.weight, gate, scale, kernel)
        keep = keep_factors(drop, x)
        out, pool = light_merge(*terms, batch_norm_of(norm), keep, pooled=asking.asked, ending=ending)
        self.state = FusedState(plain, Known(PooledMap.of(out, pool), asking.asked))
        return out

    def _pool_of(self, shortcut: Map) -> Vector | None:
        """The numbers of the shortcut's pool, if it is the last output and still as it was."""
        known = self.state.extra
        if not known.asked or known.out is None:
            return None
        return known.out.pool_of(shortcut, known.out.version is None and unwatched(self.blocks))

    def _to_infer(self, t: int, ending: BlockEnd) -> LightAttention | None:
        """What block t's attention has learned, where one op can infer the block's end."""
        mechanism = self.mechanism
        norm, drop = cast(nn.Sequential, mechanism.branches[t])
        if torch.is_grad_enabled() or norm.training or ending.norm.training or (drop.training and drop.drop_prob):
            return None
        projection = mechanism.projections[t]
        if altered(projection.query, ChannelConvolution) or altered(projection.key, ChannelConvolution):
            return None
        known = _cell_weights(mechanism)
        if known is None:
            return None
        cell, kernel = known
        weights = (projection.query.weight, projection.key.weight, projection.value.weight)
        scale = mechanism.lambdas[t]
        attention = LightAttention(*weights, mechanism.head_channels, scale, kernel, cell, batch_norm_of(norm))
        reason = light_block_reason(ending.convolved, ending.x, batch_norm_of(ending.norm), attention)
        return attention if reason is None else None

    def _inferred(self, ending: BlockEnd, attention: LightAttention) -> Map:
        plain, known = self.state
        added, added_norm = _unnormalised(ending.shortcut, ending.x)
        pool = self._pool_of(added) if added_norm is None else None
        context = getattr(plain, "context", None)
        if context is not None:
            recalled = known.recalled
            if recalled is None:
                recalled = cast(ReleasedDSU, cast(DLALight, self.mechanism).cell).of_hidden(context.hidden)
            context = (recalled, context.memory)
        norm = batch_norm_of(ending.norm)
        made = light_block(ending.convolved, added, norm, attention, added_norm, pool, context)
        gates, scales = [*plain.gates, made.gate], [*plain.scales, made.carried]
        recalled = None
        if made.context is None:
            plain = MRLAState(gates, scales)
        else:
            recalled, memory = made.context
            plain = DLAState(CellState(torch.sigmoid(memory), memory), gates, scales)
        self.state = FusedState(plain, Known(PooledMap.of(made.out, made.pool), True, recalled))
        return made.out


def _cell_weights(mechanism: LightLayerAttention[Any]) -> tuple[list[Tensor] | None, Tensor | None] | None:
    """The cell's eight weights and the stage's kernel, if `light_block` knows the mechanism and its cell."""
    if type(mechanism) is MRLALight:
        return None, None
    if type(mechanism) is not DLALight or mechanism.seen_context is not own_context:
        return None
    cell = mechanism.cell
    if altered(cell, ReleasedDSU) or not isinstance(cell, ReleasedDSU) or cell.activation is not torch.sigmoid:
        return None
    of_input, of_hidden = squeeze_weights(cell.of_input), squeeze_weights(cell.of_hidden)
    if of_input is None or of_hidden is None:
        return None
    return [*of_input, *of_hidden], mechanism.stage_kernel


def _unnormalised(shortcut: nn.Module, x: Tensor) -> tuple[Map, BatchNorm | None]:
    """The shortcut of x, or a projection's convolution and the normalisation that is left to the op."""
    if altered(shortcut, nn.Sequential) is None:
        projected, norm = cast(nn.Sequential, shortcut)
        if norm_obstacle(norm) is None and not norm.training:
            return projected(x), batch_norm_of(norm)
    return shortcut(x), None
