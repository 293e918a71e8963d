"""Attention to a running mean (KCLA) with its map formula in fused ops.

What is computed is the mechanism's `merge`; its coefficients are asked of the mechanism itself, between the ops:

    x = ReLU(BN(c) + s) and GAP(x)                  residual_output
    g, e/z                                          the mechanism's coefficients
    m = (1 - e/z) ⊙ m_{t-1} + e/z ⊙ x               history_sum, of two layers
    out = x + DropPath(ReLU(BN(g ⊙ DW(m; K))))      history_sum_norm, of one

In the backward pass the sum of one layer is made anew, and the weights' gradients come with those of the maps.
"""

from typing import Any

import torch

from crosslayer.fused.base_pass import sum_obstacle, with_sum
from crosslayer.fused.fused_pass import FusedPass, FusedState
from crosslayer.fused.history_sum import Stored, history_sum
from crosslayer.fused.layout import alike
from crosslayer.fused.modules import batch_norm_of
from crosslayer.fused.pooling import global_average_pool
from crosslayer.fused.residual_output import residual_output
from crosslayer.mechanisms import Mechanism
from crosslayer.mechanisms.depth_pass import BlockEnd
from crosslayer.mechanisms.kcla import KeyCorrelatedLayerAttention, State
from crosslayer.ops.shapes import HeadGate, Map, Vector


class FusedMeanPass(FusedPass):
    """One pass through a stage that attends to the mean of its outputs; nothing is kept beside the state."""

    mechanism: KeyCorrelatedLayerAttention

    @classmethod
    def block_obstacle(cls, mechanism: Mechanism[Any], t: int) -> str | None:
        """Why what the mechanism does to block t cannot be fused, if so."""
        assert isinstance(mechanism, KeyCorrelatedLayerAttention)
        return sum_obstacle(mechanism, KeyCorrelatedLayerAttention, t)

    def fused_end(self, t: int, ending: BlockEnd) -> Map:
        """Three ops and a convolution."""
        x, shortcut = ending.convolved, ending.shortcut(ending.x)
        if shortcut.dtype != x.dtype:
            return self.fused_merge(t, ending.activation(ending.norm(x) + shortcut), shortcut)
        made = residual_output(x, shortcut, batch_norm_of(ending.norm))
        return self._merged(t, made.out, made.pool)

    def fused_merge(self, t: int, out: Map, shortcut: Map) -> Map:
        """The mean and what follows it."""
        return self._merged(t, out, global_average_pool(out))

    def _merged(self, t: int, x: Map, pooled: Vector) -> Map:
        mechanism = self.mechanism
        plain = mechanism.renewed(t, self.state.plain)
        gate, share, log_total = mechanism.coefficients(t, pooled, plain.log_total)
        mean = x
        if plain.mean is not None:
            shares = torch.stack([self._of_channels(1 - share), self._of_channels(share)], dim=1)
            mean = history_sum([Stored(alike(plain.mean.to(x.dtype), x)), Stored(x)], shares)
        value = mechanism.projections[t].value(mean)
        out = with_sum(x, [Stored(value)], self._of_channels(gate)[:, None], mechanism.branches[t])
        self.state = FusedState(State(mean, log_total, [*plain.shares, share]), self.nothing)
        return out

    def _of_channels(self, numbers: HeadGate) -> Vector:
        return numbers.repeat_interleave(self.mechanism.head_channels, dim=1)
