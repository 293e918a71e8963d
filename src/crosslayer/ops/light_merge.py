"""The merge of the L forms (MRLA-L, DLA-L): this block's value plus what the shortcut carries on."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from crosslayer.ops.shapes import ChannelScale, HeadGate, Kernel, Map, Vector

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"identity": lambda x: x, "gelu": F.gelu}


def head_gate(query: Vector, key: Vector, head_channels: int) -> HeadGate:
    """σ(q·k / √d) for every head of d = `head_channels` channels: a softmax over one layer would always be one."""
    product = (query * key).unflatten(1, (-1, head_channels)).sum(2)
    return torch.sigmoid(product / head_channels**0.5)


def light_merge(
    x: Map,
    shortcut: Map,
    value_kernel: Kernel,
    value_gate: HeadGate,
    shortcut_scale: ChannelScale,
    shortcut_kernel: Kernel | None = None,
    activation: str = "identity",
) -> Map:
    """G ⊙ φ(DW(x; K)) + a ⊙ s + DW(s; K_s).

    Args:
        x: the block's output.
        shortcut: the block's shortcut branch s.
        value_kernel: depth-wise kernel K of the block's value.
        value_gate: g, one per image and head; a head's gate serves all its channels.
        shortcut_scale: a, one per channel, for each image or for all.
        shortcut_kernel: depth-wise kernel K_s on the shortcut; absent, the term is absent.
        activation: φ, `identity` or `gelu`.
    """
    gate = value_gate.repeat_interleave(x.shape[1] // value_gate.shape[1], dim=1)
    merged = gate.to(x.dtype)[..., None, None] * ACTIVATIONS[activation](depthwise(x, value_kernel))
    merged = torch.addcmul(merged, shortcut_scale.to(x.dtype)[..., None, None], shortcut.to(x.dtype))
    if shortcut_kernel is not None:
        merged = merged + depthwise(shortcut, shortcut_kernel)
    return merged


def depthwise(x: Map, kernel: Kernel) -> Map:
    """Depth-wise convolution that keeps the size of an odd kernel's map."""
    rows, columns = kernel.shape[2:]
    return F.conv2d(x, kernel, padding=(rows // 2, columns // 2), groups=x.shape[1])
