"""`light_merge_norm` as one pass over the maps to evaluate, two to train, two backward.

Whether z is kept or computed anew is the passes' affair: on a GPU bytes are dear and arithmetic is cheap (two passes
that each compute it move 5 maps where writing and reading it would move 6), on a CPU it is the other way round. Sums
are taken per program, then added in a fixed order: no atomics.
"""

import torch
from torch import Tensor

from crosslayer.ops.fused.backends import passes_of, runs_triton
from crosslayer.ops.fused.layout import accumulator, new_map
from crosslayer.ops.fused.light_gradients import normalise_backward
from crosslayer.ops.fused.light_terms import Norm, Terms
from crosslayer.ops.fused.pooling import pool_of_sums


@torch.library.custom_op("crosslayer::light_merge_statistics", mutates_args=())
def statistics(
    x: Tensor, shortcut: Tensor, value_kernel: Tensor, gate: Tensor, scale: Tensor, shortcut_kernel: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of z in every channel, over the batch; and z, or nothing if it is not kept.

    `normalise` has the gradient.
    """
    terms = Terms(x, shortcut, value_kernel, gate, scale, shortcut_kernel)
    merged = new_merged(x)
    return *passes_of("light", x).moments(terms, merged), merged


@statistics.register_fake
def _(x, shortcut, value_kernel, gate, scale, shortcut_kernel):
    mean = x.new_empty(x.shape[1], dtype=accumulator(x))
    return mean, torch.empty_like(mean), new_merged(x)


def new_merged(x: Tensor) -> Tensor:
    """Memory for z where the passes keep it, else for nothing."""
    return x.new_empty(0) if runs_triton(x) else torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.custom_op("crosslayer::light_merge_normalise", mutates_args=())
def normalise(
    x: Tensor,
    shortcut: Tensor,
    value_kernel: Tensor,
    gate: Tensor,
    scale: Tensor,
    shortcut_kernel: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    keep: Tensor | None,
    merged: Tensor | None,
    made_of: list[Tensor],
    claims: list[Tensor],
    epsilon: float,
    ending_epsilon: float,
    pooled: bool,
) -> tuple[Tensor, Tensor]:
    """x + keep · (w · (z - μ) / √(σ² + ε) + b), with keep a vector over images, gate and scale batch × channels.

    With `merged`, μ and σ² are z's own, all three from `statistics`, and the gradient goes through them. With `made_of`
    and `claims`, those of an `Ending`, x is made anew for the backward pass, and the gradients of x and of the shortcut
    go through the claims.
    With `pooled`, the second output is the mean over each image's map, otherwise it is empty.
    """
    terms = Terms(x, shortcut, value_kernel, gate, scale, shortcut_kernel)
    norm = Norm(weight, bias, mean, variance, keep, epsilon).exact(x)
    out, sums = passes_of("light", x).normalise(terms, norm, merged, pooled)
    return out, pool_of_sums(sums, x) if pooled else x.new_empty(0)


@normalise.register_fake
def _(x, *others):
    return new_map(x), x.new_empty(x.shape[:2] if others[-1] else 0)


def keep_inputs(ctx, inputs, output) -> None:
    """What the backward pass needs: no map but the shortcut, x or what it is made of and, where it is kept, z."""
    *tensors, made_of, _, ctx.epsilon, ctx.ending_epsilon, ctx.pooled = inputs
    x, *rest = tensors
    kept = (*rest[:6], *rest[7:])  # not the bias
    ctx.save_for_backward(made_of[0] if made_of else x, *kept, *made_of[1:])


def backward(ctx, gradient, of_pool):
    """The gradients of the maps, of z's terms, and of the affine map."""
    saved, ending = ctx.saved_tensors[:11], list(ctx.saved_tensors[11:])
    dx, ds, value_kernel, gate, scale, shortcut_kernel, weight, bias, sums = normalise_backward(
        gradient, of_pool if ctx.pooled else None, *saved, ending, ctx.epsilon, ctx.ending_epsilon
    )
    shortcut_kernel = shortcut_kernel if saved[5] is not None else None
    small = (value_kernel, gate, scale, shortcut_kernel, weight, bias, *[None] * 4)
    if not ending:
        return dx, ds, *small, [], [], *[None] * 3
    return None, None, *small, [None] * 5, [dx, sums, ds], *[None] * 3


normalise.register_autograd(backward, setup_context=keep_inputs)
