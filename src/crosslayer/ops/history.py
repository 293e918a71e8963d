"""Attention over stored layers: the arithmetic of the B forms (MRLA-B, DLA-B)."""

from typing import NamedTuple

import torch

from crosslayer.ops.fused import history_sum as fused_history_sum
from crosslayer.ops.fused.claims import Claim, Claims, claims_on
from crosslayer.ops.fused.layout import accumulator
from crosslayer.ops.selection import takes_fused
from crosslayer.ops.shapes import HeadWeights, History, Map, Vector


class StoredValue(NamedTuple):
    """A map V_m that later blocks read; never changed."""

    of: Map
    claims: list[Claim] | None = None
    """Where it is read by fused ops: one for each block that will read it, its own first."""


def store_value(value: Map, readers: int) -> StoredValue:
    """A value for so many blocks, its own included, each of which reads it once.

    Raises:
        ValueError: fused was asked for where it cannot run.
    """
    return StoredValue(value, claims_on(value, readers) if takes_fused("history_sum", value) else None)


def history_weights(query: Vector, keys: History, head_channels: int) -> HeadWeights:
    """Softmax over stored layers m of q·k_m / √d, for every head of d = `head_channels` channels."""
    query, keys = query.unflatten(1, (-1, head_channels)), keys.unflatten(2, (-1, head_channels))
    scores = (query.unsqueeze(1) * keys).sum(3) / head_channels**0.5  # too few numbers for a matrix product
    return scores.transpose(1, 2).softmax(dim=2)


def history_sum(values: list[StoredValue], weights: HeadWeights, scales: History | None = None) -> Map:
    """Σ_m (a_m · G_m) ⊙ V_m.

    Args:
        values: one for each stored layer, in the order they were stored; the last is the block's own.
        weights: attention a_m of every head on every layer; a head's weight serves all its channels.
        scales: product G_m of the gates that layer m has gone through; absent, every gate is one.

    Only the inputs are needed for the gradient, so memory saved grows linearly with the number of layers.
    """
    maps, factors = [value.of for value in values], layer_factors(values, weights, scales)
    claims = claims_of(values)
    if claims is None:
        return reference(maps, factors)
    return fused_history_sum.fused([map_.detach() for map_ in maps], factors.to(accumulator(maps[0])), *claims)


def reference(values: list[Map], factors: History) -> Map:
    """Σ_m f_m ⊙ V_m in plain PyTorch."""
    factors = factors.to(values[0].dtype)[..., None, None]
    total = factors[:, 0] * values[0]
    for m in range(1, len(values)):
        total = torch.addcmul(total, factors[:, m], values[m])
    return total


def layer_factors(values: list[StoredValue], weights: HeadWeights, scales: History | None) -> History:
    """a_m · G_m for every channel."""
    factors = weights.transpose(1, 2).repeat_interleave(values[0].of.shape[1] // weights.shape[1], dim=2)
    return factors if scales is None else factors * scales


def claims_of(values: list[StoredValue]) -> Claims | None:
    """The claims of the block that stored the last of the values, unless one was stored without.

    That block is as many readers behind a value's own as values were stored after it.
    """
    shares, factors = [], []
    for behind, value in zip(reversed(range(len(values))), values, strict=True):
        if value.claims is None:
            return None
        assert behind < len(value.claims), "a value was stored for fewer readers than it has"
        shares.append(value.claims[behind].share)
        factors.append(value.claims[behind].factor)
    return Claims(shares, factors)
