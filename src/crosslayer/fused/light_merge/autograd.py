"""`light_merge` as one pass over the maps to evaluate, two to train, two backward.

Whether z is kept or computed anew is the passes' affair: on a GPU bytes are dear and arithmetic is cheap (two passes
that each compute it move 5 maps where writing and reading it would move 6), on a CPU it is the other way round. Sums
are taken per program, then added in a fixed order: no atomics.
"""

import torch
from torch import Tensor

from crosslayer.fused.batch_norm import Norm
from crosslayer.fused.custom_op import custom_op, depthwise_flops, differentiable
from crosslayer.fused.layout import accumulator, laid_out_as, new_map
from crosslayer.fused.light_merge.gradients import normalise_backward, passes
from crosslayer.fused.light_merge.terms import Terms
from crosslayer.fused.pooling import pool_of_sums
from crosslayer.fused.support import runs_triton


def _statistics_shapes(x, shortcut, value_kernel, gate, scale, shortcut_kernel):
    mean = x.new_empty(x.shape[1], dtype=accumulator(x))
    return mean, torch.empty_like(mean), _new_merged(x)


@custom_op("light_merge_statistics", fake=_statistics_shapes)
def statistics(
    x: Tensor, shortcut: Tensor, value_kernel: Tensor, gate: Tensor, scale: Tensor, shortcut_kernel: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of z in every channel, over the batch; and z, or nothing if it is not kept.

    `normalise` has the gradient.
    """
    terms = Terms(x, shortcut, value_kernel, gate, scale, shortcut_kernel)
    merged = _new_merged(x)
    return *passes(x).moments(terms, merged), merged


def _new_merged(x: Tensor) -> Tensor:
    """Memory for z where the passes keep it, else for nothing."""
    return x.new_empty(0) if runs_triton(x) else torch.empty_like(x, memory_format=torch.channels_last)


def _shapes(x, *others):
    return new_map(x), x.new_empty(x.shape[:2] if others[-1] else 0)


def _flops(x, shortcut, value_kernel, gate, scale, shortcut_kernel, *others):
    of_shortcut = 0 if shortcut_kernel is None else depthwise_flops(x, shortcut_kernel)
    return depthwise_flops(x, value_kernel) + of_shortcut


@custom_op("light_merge", fake=_shapes, flops=_flops)
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
    parts: list[Tensor],
    epsilon: float,
    ending_epsilon: float,
    pooled: bool,
) -> tuple[Tensor, Tensor]:
    """x + keep · (w · (z - μ) / √(σ² + ε) + b), with keep a vector over images, gate and scale batch × channels.

    With `merged`, μ and σ² are z's own, all three from `statistics`, and the gradient goes through them. With `made_of`
    and `parts`, those of an `Ending`, x is made anew for the backward pass, and the gradients of x and of the shortcut
    go through the parts.
    With `pooled`, the second output is the mean over each image's map, without gradient, otherwise it is empty.
    """
    terms = Terms(x, shortcut, value_kernel, gate, scale, shortcut_kernel)
    norm = Norm(weight, bias, mean, variance, keep, epsilon).exact(x)
    out, sums = passes(x).normalise(terms, norm, merged, pooled)
    return out, pool_of_sums(sums, x) if pooled and sums is not None else x.new_empty(0)


def _keep_inputs(ctx, inputs, output) -> None:
    """No map but the shortcut, x or what it is made of and, where it is kept, z."""
    *tensors, made_of, _, ctx.epsilon, ctx.ending_epsilon, _ = inputs
    x, *rest = tensors
    kept = (*rest[:6], *rest[7:])  # not the bias
    ctx.has_kernel = rest[4] is not None
    ctx.save_for_backward(made_of[0] if made_of else x, *kept, *made_of[1:])


def _backward(ctx, gradient, _of_pool):
    tensors = ctx.saved_tensors
    saved, ending = tensors[:11], list(tensors[11:])
    dx, ds, value_kernel, gate, scale, shortcut_kernel, weight, bias, sums = normalise_backward(
        gradient, *saved, ending, ctx.epsilon, ctx.ending_epsilon
    )
    shortcut_kernel = shortcut_kernel if ctx.has_kernel else None
    value_kernel = laid_out_as(value_kernel, saved[2])
    small = (value_kernel, gate, scale, shortcut_kernel, weight, bias, *[None] * 4)
    if not ending:
        return dx, ds, *small, [], [], *[None] * 3
    return None, None, *small, [None] * 5, [dx, sums, ds], *[None] * 3


differentiable(normalise, _keep_inputs, _backward)
