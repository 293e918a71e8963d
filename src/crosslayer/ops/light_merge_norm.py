"""The merge of the L forms with what follows it on maps: normalisation, and the addition to the block's output."""

from crosslayer.ops.fused import light_merge_norm as fused
from crosslayer.ops.fused.residual_output import Ending
from crosslayer.ops.light_merge import light_merge
from crosslayer.ops.normalisation import Keep, Normalisation, batch_norm, batch_statistics
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
    ending: Ending | None = None,
) -> tuple[Map, Vector | None]:
    """x + keep ⊙ BN(G ⊙ DW(x; K) + a ⊙ s + DW(s; K_s)); see `light_merge` for its terms.

    With `pooled`, the second output is the first one's global average pool, which may cost less here than later. With
    `ending`, of the x and shortcut given, x is not kept for the backward pass but made anew; no other op may take it.

    Raises:
        ValueError: statistics of a single value per channel are asked for, or fused where it cannot run.
    """
    terms = (x, shortcut, value_kernel, value_gate, shortcut_scale, shortcut_kernel)
    if takes_fused("light_merge_norm", x, obstacle(value_kernel, shortcut_kernel)):
        return fused_form(*terms, norm, keep, pooled, ending)
    return reference(*terms, norm, keep, pooled)


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
    branch = batch_norm(merged, norm)
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
    ending: Ending | None,
) -> tuple[Map, Vector | None]:
    """In one pass over the maps, or with the batch's statistics in two."""
    shortcut = shortcut.to(x.dtype)
    made_of, claims, epsilon = (
        ([], [], 0.0) if ending is None else (ending.made_of, list(ending.claims), ending.epsilon)
    )
    if ending is not None:  # their gradients go through the claims
        x, shortcut = x.detach(), shortcut.detach()
    gate = value_gate.repeat_interleave(x.shape[1] // value_gate.shape[1], dim=1)
    terms = (x, shortcut, value_kernel, gate, shortcut_scale.expand_as(gate), shortcut_kernel)
    mean, variance, merged = norm.running_mean, norm.running_var, None
    if norm.training:
        detached = [None if term is None else term.detach() for term in terms]
        mean, variance, merged = batch_statistics(x, norm, lambda: fused.statistics(*detached))
    images = None if keep is None else keep.flatten()
    vectors = (norm.weight, norm.bias, mean, variance, images)
    out, pool = fused.normalise(*terms, *vectors, merged, made_of, claims, norm.epsilon, epsilon, pooled)
    return out, pool if pooled else None


def obstacle(*kernels: Kernel | None) -> str | None:
    """Why the passes cannot take one of these depth-wise kernels, if so."""
    for kernel in kernels:
        if kernel is not None and tuple(kernel.shape[2:]) != (3, 3):
            return f"a depth-wise kernel is {kernel.shape[2]}×{kernel.shape[3]}, and its kernels are written for 3×3"
    return None
