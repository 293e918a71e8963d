"""Attention of one block on the blocks before it: the equations of MRLA and DLA (arXiv 2302.03985, 2406.13392)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from crosslayer.ops.shapes import (
    ChannelScale,
    GrowingWeights,
    HeadGate,
    HeadWeights,
    History,
    Kernel,
    LongerHistory,
    Map,
    Vector,
)


def head_gate(query: Vector, key: Vector, head_channels: int) -> HeadGate:
    """σ(q·k / √d) for every head of d = `head_channels` channels: a softmax over one layer would always be one."""
    product = (query * key).unflatten(1, (-1, head_channels)).sum(2)
    return torch.sigmoid(product / head_channels**0.5)


def history_weights(query: Vector, keys: History, head_channels: int) -> HeadWeights:
    """Softmax over stored layers m of q·k_m / √d, for every head of d = `head_channels` channels."""
    query, keys = query.unflatten(1, (-1, head_channels)), keys.unflatten(2, (-1, head_channels))
    scores = (query.unsqueeze(1) * keys).sum(3) / head_channels**0.5  # too few numbers for a matrix product
    return scores.transpose(1, 2).softmax(dim=2)


def layer_factors(weights: HeadWeights, channels: int) -> History:
    """Each head's weight of every layer, for all of its channels."""
    return weights.transpose(1, 2).repeat_interleave(channels // weights.shape[1], dim=2)


def history_sum(values: list[Map], factors: History) -> Map:
    """Σ_m f_m ⊙ V_m, over as many maps as there are layers of factors.

    Only the inputs are needed for the gradient, so that memory saved grows linearly with the number of layers.
    """
    factors = factors.to(values[0].dtype)[..., None, None]
    total = factors[:, 0] * values[0]
    for m in range(1, len(values)):
        total = torch.addcmul(total, factors[:, m], values[m])
    return total


def light_merge(value: Map, gate: HeadGate, shortcut: Map, scale: ChannelScale, kernel: Kernel | None = None) -> Map:
    """z = g ⊙ V + a ⊙ s + DW(s; K).

    Args:
        value: V, of the block's output.
        gate: g, one per image and head; a head's gate serves all its channels.
        shortcut: s.
        scale: a, one per channel and image.
        kernel: depth-wise kernel K on the shortcut; absent, the term is absent.
    """
    own = gate.repeat_interleave(value.shape[1] // gate.shape[1], dim=1)
    merged = own.to(value.dtype)[..., None, None] * value + scale.to(shortcut.dtype)[..., None, None] * shortcut
    return merged if kernel is None else merged + depthwise(shortcut, kernel)


def depthwise(x: Map, kernel: Kernel) -> Map:
    """Depth-wise convolution that keeps the size of an odd kernel's map."""
    rows, columns = kernel.shape[2:]
    return F.conv2d(x, kernel, padding=(rows // 2, columns // 2), groups=x.shape[1])


def append_layer(history: History | None, new: Vector) -> LongerHistory:
    """One more layer at the end of a history."""
    new = new.unsqueeze(1)
    return new if history is None else torch.cat([history, new], dim=1)


def stack_attention(weights: list[GrowingWeights]) -> Tensor:
    """Each block's attention as one matrix per image and head: batch × heads × l × m, zero where m > l.

    The last weight of every block is its own; what is missing before the first has been forgotten.
    """
    last = len(weights) - 1
    rows = [F.pad(w, (block + 1 - w.shape[2], last - block)) for block, w in enumerate(weights)]
    return torch.stack(rows, dim=2)


def recursion_shares(gates: list[HeadGate], scales: list[ChannelScale]) -> Tensor:
    """Attention of block l on block m that a light form's recursion implies.

    Unrolling o_l = g_l ⊙ V_l + a_l ⊙ o_{l-1}, with a_l what block l carries on (λ_l, times its gate in DLA), gives
    block m's value the factor g_m ⊙ Π_{m<j≤l} a_j in o_l. The share is that factor's magnitude, averaged over the
    channels of a head and divided by its sum over m: batch × heads × l × m, rows sum to one.
    """
    heads = gates[0].shape[1]
    rows: list[Tensor] = []
    factors: list[Tensor] = []
    for gate, scale in zip(gates, scales, strict=True):
        own = gate.repeat_interleave(scale.shape[1] // heads, dim=1)
        factors = [factor * scale.abs() for factor in factors] + [own]
        per_head = torch.stack([f.unflatten(1, (heads, -1)).mean(2) for f in factors], dim=2)
        rows.append(F.pad(per_head / per_head.sum(2, keepdim=True), (0, len(gates) - len(factors))))
    return torch.stack(rows, dim=2)
