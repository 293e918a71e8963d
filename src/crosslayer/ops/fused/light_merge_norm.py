"""`light_merge_norm` as one pass over the maps to evaluate, two to train, two backward.

z is never kept: two passes that each compute it anew move 5 maps where writing and reading it would move 6, and none
stays in memory between forward and backward. Sums are taken per program, then added in a fixed order: no atomics.
"""

import torch
from torch import Tensor

from crosslayer.ops.fused.light_gradients import normalise_backward
from crosslayer.ops.fused.light_launch import launch_over, plan, prepared, present
from crosslayer.ops.fused.maps import accumulator, new_map


@torch.library.custom_op("crosslayer::light_merge_statistics", mutates_args=())
def statistics(
    x: Tensor, shortcut: Tensor, value_kernel: Tensor, gate: Tensor, scale: Tensor, shortcut_kernel: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of z in every channel, over the batch; `normalise` has the gradient."""
    from crosslayer.ops.fused.light_kernels import statistics_kernel

    inputs = prepared(x, shortcut, value_kernel, gate, scale, shortcut_kernel)
    launch = plan(inputs.x)
    partials = x.new_empty((3, launch.programs, x.shape[1]), dtype=accumulator(x))
    launch_over(statistics_kernel, launch, inputs.x, *inputs, partials, HAS_KERNEL=shortcut_kernel is not None)
    counts, means, deviations = partials.unbind()
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
) -> Tensor:
    """x + keep · (w · (z - μ) / √(σ² + ε) + b), with keep a vector over images, gate and scale batch × channels.

    With `batch_statistics`, μ and σ² are z's own, from `statistics`, and the gradient goes through them.
    """
    from crosslayer.ops.fused.light_kernels import normalise_kernel

    inputs = prepared(x, shortcut, value_kernel, gate, scale, shortcut_kernel)
    out = new_map(x)
    arguments = (*inputs, weight, bias, mean, variance, present(keep, weight), out, epsilon)
    flags = {"HAS_KERNEL": shortcut_kernel is not None, "HAS_KEEP": keep is not None}
    launch_over(normalise_kernel, plan(inputs.x), inputs.x, *arguments, **flags)
    return out


@normalise.register_fake
def _(x, *_others):
    return new_map(x)


def keep_inputs(ctx, inputs, output) -> None:
    """What the backward pass needs: no map but x and the shortcut."""
    *tensors, epsilon, batch_statistics = inputs
    ctx.save_for_backward(*tensors[:7], *tensors[8:])  # not the bias
    ctx.epsilon, ctx.batch_statistics = epsilon, batch_statistics


def backward(ctx, gradient):
    """The gradients of the maps, of z's terms, and of the affine map."""
    saved = ctx.saved_tensors
    dx, ds, value_kernel, gate, scale, shortcut_kernel, weight, bias = normalise_backward(
        gradient, *saved, ctx.epsilon, ctx.batch_statistics
    )
    shortcut_kernel = shortcut_kernel if saved[5] is not None else None
    return dx, ds, value_kernel, gate, scale, shortcut_kernel, weight, bias, None, None, None, None, None


normalise.register_autograd(backward, setup_context=keep_inputs)
