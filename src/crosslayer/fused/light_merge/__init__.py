"""The merge of the L forms with what follows it on maps: normalisation, and the addition to the block's output."""

from crosslayer.fused.batch_norm import BatchNorm, Keep, batch_stats
from crosslayer.fused.light_merge import autograd
from crosslayer.fused.residual_output import Ending
from crosslayer.ops.shapes import ChannelScale, HeadGate, Kernel, Map, Vector


def light_merge(
    x: Map,
    shortcut: Map,
    value_kernel: Kernel,
    gate: HeadGate | Vector,
    scale: ChannelScale,
    shortcut_kernel: Kernel | None,
    norm: BatchNorm,
    keep: Keep | None = None,
    pooled: bool = False,
    ending: Ending | None = None,
) -> tuple[Map, Vector | None]:
    """x + keep ⊙ BN(G ⊙ DW(x; K) + a ⊙ s + DW(s; K_s)), and its global average pool.

    Args:
        x: the block's output.
        shortcut: s; made to x's dtype.
        value_kernel: K, depth-wise and 3×3.
        gate: G, one per image and head, or per image and channel; a head's gate serves all its channels.
        scale: a, one per channel, for each image or for all.
        shortcut_kernel: K_s, likewise 3×3; absent, the term is absent.
        norm: BN.
        keep: DropPath's factor for each image.
        pooled: whether the second output is the pool of the first, a number without gradient: `known_pool` or
            `residual_output`'s `shortcut_pool` make it a function of the map. Otherwise it is None.
        ending: that of x and this very shortcut, of `residual_output`: x is then not kept for the backward pass but
            made anew. It may be taken once.

    Raises:
        ValueError: statistics of a single value per channel are asked for.
    """
    shortcut = shortcut.to(x.dtype)
    made_of, parts, epsilon = ([], [], 0.0) if ending is None else (ending.made_of, list(ending.parts), ending.epsilon)
    if ending is not None:  # their gradients go through the parts
        x, shortcut = x.detach(), shortcut.detach()
    gate = gate.repeat_interleave(x.shape[1] // gate.shape[1], dim=1)
    terms = (x, shortcut, value_kernel, gate, scale.expand_as(gate), shortcut_kernel)
    if norm.training:
        detached = [None if term is None else term.detach() for term in terms]
        mean, variance, merged = batch_stats(x, norm, lambda: autograd.statistics(*detached))
    else:
        (mean, variance), merged = norm.known_stats(), None
    rows = (*norm.affine(), mean, variance, None if keep is None else keep.flatten())
    out, pool = autograd.normalise(*terms, *rows, merged, made_of, parts, norm.epsilon, epsilon, pooled)
    return out, pool.detach() if pooled else None
