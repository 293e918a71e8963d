"""The merge of the L forms with what follows it on maps: normalisation, and the addition to the block's output."""

import torch
import torch.nn.functional as F
from torch import Tensor

from crosslayer.ops.fused import light_merge_norm as fused
from crosslayer.ops.light_merge import light_merge
from crosslayer.ops.normalisation import Keep, Normalisation, check_count, move_running
from crosslayer.ops.pooling import global_average_pool
from crosslayer.ops.selection import takes_fused
from crosslayer.ops.shapes import ChannelScale, HeadGate, Kernel, Map, Vector


def light_merge_norm(
    x: Map,
    shortcut: Map,
    value_kernel: Kernel,
    value_gate: HeadGate,
    shortcut_scale: ChannelScale,
    shortcut_kernel: Kernel | None,
    norm: Normalisation,
    keep: Keep | None = None,
    pooled: bool = False,
) -> tuple[Map, Vector | None]:
    """x + keep ⊙ BN(G ⊙ DW(x; K) + a ⊙ s + DW(s; K_s)); see `light_merge` for its terms.

    With `pooled`, the second output is the first one's global average pool, which may cost less here than later.

    Raises:
        ValueError: statistics of a single value per channel are asked for, or fused where it cannot run.
    """
    run = fused_form if takes_fused("light_merge_norm", x, obstacle(value_kernel, shortcut_kernel)) else reference
    return run(x, shortcut, value_kernel, value_gate, shortcut_scale, shortcut_kernel, norm, keep, pooled)


def reference(
    x: Map,
    shortcut: Map,
    value_kernel: Kernel,
    value_gate: HeadGate,
    shortcut_scale: ChannelScale,
    shortcut_kernel: Kernel | None,
    norm: Normalisation,
    keep: Keep | None,
    pooled: bool,
) -> tuple[Map, Vector | None]:
    """In plain PyTorch."""
    merged = light_merge(x, shortcut, value_kernel, value_gate, shortcut_scale, shortcut_kernel)
    branch = F.batch_norm(
        merged,
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        norm.training,
        norm.momentum,
        norm.epsilon,
    )
    out = x + (branch if keep is None else branch * keep)
    return out, global_average_pool(out) if pooled else None


def fused_form(
    x: Map,
    shortcut: Map,
    value_kernel: Kernel,
    value_gate: HeadGate,
    shortcut_scale: ChannelScale,
    shortcut_kernel: Kernel | None,
    norm: Normalisation,
    keep: Keep | None,
    pooled: bool,
) -> tuple[Map, Vector | None]:
    """In one pass over the maps, or with the batch's statistics in two."""
    shortcut = shortcut.to(x.dtype)
    gate = value_gate.repeat_interleave(x.shape[1] // value_gate.shape[1], dim=1)
    terms = (x, shortcut, value_kernel, gate, shortcut_scale.expand_as(gate), shortcut_kernel)
    mean, variance, merged = norm.running_mean, norm.running_var, None
    if norm.training:
        mean, variance, merged = batch_statistics(terms, norm)
    images = None if keep is None else keep.flatten()
    vectors = (norm.weight, norm.bias, mean, variance, images)
    out, pool = fused.normalise(*terms, *vectors, merged, norm.epsilon, pooled)
    return out, pool if pooled else None


def batch_statistics(terms: tuple[Tensor | None, ...], norm: Normalisation) -> tuple[Tensor, Tensor, Tensor]:
    """z's mean and variance in every channel, and z if it is kept; moves the running ones as `batch_norm` does.

    Raises:
        ValueError: there is one value per channel only.
    """
    x = terms[0]
    assert x is not None
    check_count(x)
    with torch.no_grad():
        mean, variance, merged = fused.statistics(*(None if term is None else term.detach() for term in terms))
        move_running(norm, mean, variance, x)
    return mean, variance, merged


def obstacle(value_kernel: Kernel, shortcut_kernel: Kernel | None) -> str | None:
    """Why the kernels cannot take these arguments, if they cannot."""
    for kernel in (value_kernel, shortcut_kernel):
        if kernel is not None and tuple(kernel.shape[2:]) != (3, 3):
            return f"a depth-wise kernel is {kernel.shape[2]}×{kernel.shape[3]}, and its kernels are written for 3×3"
    return None
