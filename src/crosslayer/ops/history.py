"""Attention over stored layers: the arithmetic of the B forms (MRLA-B, DLA-B)."""

import torch

from crosslayer.ops.fused import history_sum as fused_history_sum
from crosslayer.ops.selection import takes_fused
from crosslayer.ops.shapes import HeadWeights, History, Map, Vector


def history_weights(query: Vector, keys: History, head_channels: int) -> HeadWeights:
    """Softmax over stored layers m of q·k_m / √d, for every head of d = `head_channels` channels."""
    query, keys = query.unflatten(1, (-1, head_channels)), keys.unflatten(2, (-1, head_channels))
    scores = torch.einsum("bhd,bmhd->bhm", query, keys) / head_channels**0.5
    return scores.softmax(dim=2)


def history_sum(values: list[Map], weights: HeadWeights, scales: History | None = None) -> Map:
    """Σ_m (a_m · G_m) ⊙ V_m.

    Args:
        values: raw maps V_m, one for each stored layer; never changed.
        weights: attention a_m of every head on every layer; a head's weight serves all its channels.
        scales: product G_m of the gates that layer m has gone through; absent, every gate is one.

    Only the inputs are needed for the gradient, so memory saved grows linearly with the number of layers.

    Raises:
        ValueError: fused was asked for where it cannot run.
    """
    head_channels = values[0].shape[1] // weights.shape[1]
    factors = weights.transpose(1, 2).repeat_interleave(head_channels, dim=2)
    if scales is not None:
        factors = factors * scales
    run = fused_history_sum.fused if takes_fused("history_sum", values[0]) else reference
    return run(values, factors)


def reference(values: list[Map], factors: History) -> Map:
    """Σ_m f_m ⊙ V_m in plain PyTorch."""
    factors = factors.to(values[0].dtype)[..., None, None]
    total = factors[:, 0] * values[0]
    for m in range(1, len(values)):
        total = torch.addcmul(total, factors[:, m], values[m])
    return total
