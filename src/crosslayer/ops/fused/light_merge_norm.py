"""`light_merge_norm` as one pass over the maps to evaluate, two to train, two backward.

z is never kept: two passes that each compute it anew move 5 maps where writing and reading it would move 6, and none
stays in memory between forward and backward. Sums are taken per program, then added in a fixed order: no atomics.
"""

import torch
from torch import Tensor

from crosslayer.ops.fused.backends import light_passes
from crosslayer.ops.fused.layout import accumulator, new_map
from crosslayer.ops.fused.light_gradients import normalise_backward
from crosslayer.ops.fused.light_terms import Norm, Terms


@torch.library.custom_op("crosslayer::light_merge_statistics", mutates_args=())
def statistics(
    x: Tensor, shortcut: Tensor, value_kernel: Tensor, gate: Tensor, scale: Tensor, shortcut_kernel: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of z in every channel, over the batch; `normalise` has the gradient."""
    terms = Terms(x, shortcut, value_kernel, gate, scale, shortcut_kernel)
    counts, means, deviations = light_passes(x).moments(terms)
    total = counts.sum(0).clamp_min(1)  # an empty batch has none
    mean = (counts * means).sum(0) / total
    return mean, (deviations + counts * (means - mean).square()).sum(0) / total


@statistics.register_fake
def _(x, shortcut, value_kernel, gate, scale, shortcut_kernel):
    mean = x.new_empty(x.shape[1], dtype=accumulator(x))
    return mean, torch.empty_like(mean)


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
    epsilon: float,
    batch_statistics: bool,
    pooled: bool,
) -> tuple[Tensor, Tensor]:
    """x + keep · (w · (z - μ) / √(σ² + ε) + b), with keep a vector over images, gate and scale batch × channels.

    With `batch_statistics`, μ and σ² are z's own, from `statistics`, and the gradient goes through them.
    With `pooled`, the second output is the mean over each image's map, otherwise it is empty.
    """
    terms = Terms(x, shortcut, value_kernel, gate, scale, shortcut_kernel)
    out, sums = light_passes(x).normalise(terms, Norm(weight, bias, mean, variance, keep, epsilon), pooled)
    return out, (sums / (x.shape[2] * x.shape[3])).to(x.dtype) if pooled else x.new_empty(0)


@normalise.register_fake
def _(x, *others):
    return new_map(x), x.new_empty(x.shape[:2] if others[-1] else 0)


def keep_inputs(ctx, inputs, output) -> None:
    """What the backward pass needs: no map but x and the shortcut."""
    *tensors, epsilon, batch_statistics, pooled = inputs
    ctx.save_for_backward(*tensors[:7], *tensors[8:])  # not the bias
    ctx.epsilon, ctx.batch_statistics, ctx.pooled = epsilon, batch_statistics, pooled


def backward(ctx, gradient, of_pool):
    """The gradients of the maps, of z's terms, and of the affine map."""
    saved = ctx.saved_tensors
    dx, ds, value_kernel, gate, scale, shortcut_kernel, weight, bias = normalise_backward(
        gradient, of_pool if ctx.pooled else None, *saved, ctx.epsilon, ctx.batch_statistics
    )
    shortcut_kernel = shortcut_kernel if saved[5] is not None else None
    return dx, ds, value_kernel, gate, scale, shortcut_kernel, weight, bias, *[None] * 6


normalise.register_autograd(backward, setup_context=keep_inputs)
