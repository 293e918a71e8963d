"""`residual_output` as one op: two passes over the maps to train, one to evaluate, two backward or one.

With n positions in the batch, r = 1 / √(σ² + ε) and g = dout + dpool / hw where out is above zero, else 0, for
out = ReLU(w r (x - μ) + b + s) and pool = Σ_hw out / hw:

    db = Σ g,   dw = Σ g r (x - μ),   ds = g
    dx = w r (g - db / n - dw r (x - μ) / n)      where μ and σ² are x's own
    dx = w r g                                    where they were known beforehand

out is not kept for the backward pass but made anew from x and s, which are kept anyway: x by the normalisation, s as
what the block's first convolution was given.

**A merge that reads out and s may do a part of this.** Its backward pass goes over dout and s as it is, so it can make
out anew, take g but for the pool's share that is not known yet, and both sums of it. It sends these back through the
`GradientParts` that come with the output, its own ds beside them. The share that is missing is dpool / hw wherever out
is above zero, and what that adds to the sums follows from two numbers for each image and channel, which were counted
when the output was made.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from crosslayer.fused.batch_norm import Incoming, norm_of, through_statistics
from crosslayer.fused.custom_op import custom_op, differentiable
from crosslayer.fused.layout import accumulator, alike, new_map
from crosslayer.fused.pooling import everywhere, pool_of_sums
from crosslayer.fused.residual_output import cpu
from crosslayer.fused.support import runs_triton


class GradientParts(NamedTuple):
    """Where one merge sends back gradients in parts: tensors without memory, taken at most once."""

    gradient: Tensor
    """Of the output, through ReLU, but for the pool's."""
    sums: Tensor
    """2 × batch × channels: Σ g and Σ g (x - μ) of that."""
    shortcut: Tensor
    """Of the shortcut, by the merge's own reading of it."""


def passes(x: Tensor):
    """Those over maps like x."""
    if runs_triton(x):
        from crosslayer.fused.residual_output import gpu

        return gpu
    return cpu


def _statistics_shapes(x):
    mean = x.new_empty(x.shape[1], dtype=accumulator(x))
    return mean, torch.empty_like(mean)


@custom_op("residual_statistics", fake=_statistics_shapes)
def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of x in every channel, over the batch; `residual_output` has the gradient."""
    return passes(x).moments(x)


def _hollow_parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    sums = x.new_zeros((), dtype=accumulator(x)).expand(2, *x.shape[:2])
    return x.new_zeros(()).expand(x.shape), sums, x.new_zeros(()).expand(x.shape)


def _output_shapes(x, shortcut, weight, bias, mean, variance, shortcut_pool, epsilon, own):
    above = x.new_empty((2, *x.shape[:2]), dtype=accumulator(x))
    of_shortcut = x.new_empty(0) if shortcut_pool is None else shortcut_pool.new_empty(shortcut_pool.shape)
    return new_map(x), x.new_empty(x.shape[:2]), of_shortcut, above, *_hollow_parts(x)


@custom_op("residual_output", fake=_output_shapes)
def residual_output(
    x: Tensor,
    shortcut: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    shortcut_pool: Tensor | None,
    epsilon: float,
    own: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """ReLU(w · (x - μ) / √(σ² + ε) + b + s) and its pool; the shortcut's, if known; what was counted; gradient parts.

    With `own`, μ and σ² are x's, from `statistics`, and the gradient goes through them.
    """
    norm = norm_of([weight, bias, mean, variance], epsilon, x)
    out, sums, above = passes(x).counted_output(x, shortcut, norm)
    known = x.new_empty(0) if shortcut_pool is None else shortcut_pool.clone(memory_format=torch.contiguous_format)
    return out, pool_of_sums(sums, x), known, above, *_hollow_parts(x)


def _backward_shapes(gradient, of_pool, of_shortcut_pool, known_sums, known_of_shortcut, x, shortcut, weight, *others):
    return new_map(x), new_map(x), torch.empty_like(weight), torch.empty_like(weight)


@custom_op("residual_output_backward", fake=_backward_shapes)
def residual_output_backward(
    gradient: Tensor,
    of_pool: Tensor,
    of_shortcut_pool: Tensor | None,
    known_sums: Tensor | None,
    known_of_shortcut: Tensor | None,
    x: Tensor,
    shortcut: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    above: Tensor,
    epsilon: float,
    own: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, shortcut, weight and bias.

    `known_sums` are of the gradient through ReLU without the pool's share; `known_of_shortcut` is added to ds.
    """
    norm, same = norm_of([weight, bias, mean, variance], epsilon, x), everywhere(of_pool, x)
    incoming = Incoming(alike(gradient, x), same)
    known = None if known_sums is None else (known_sums + same * above).unbind()
    plain, weighted = known or passes(x).norm_sums(incoming, x, shortcut, norm)
    affine = of_weight, of_bias = norm.affine_gradients(plain, weighted)
    through = through_statistics(affine, own)
    of_shortcut = None if of_shortcut_pool is None else everywhere(of_shortcut_pool, x)
    dx, ds = passes(x).gradients(incoming, x, shortcut, known_of_shortcut, of_shortcut, norm, through)
    return dx, ds, of_weight.to(weight.dtype), of_bias.to(weight.dtype)


def _keep_inputs(ctx, inputs, output) -> None:
    """No map but x and the shortcut."""
    *tensors, _, ctx.epsilon, ctx.own = inputs
    ctx.save_for_backward(*tensors, output[3])
    ctx.set_materialize_grads(False)


def _backward(ctx, gradient, of_pool, of_shortcut_pool, _of_above, part, sums, of_shortcut):
    saved = ctx.saved_tensors
    x = saved[0]
    if gradient is not None and part is not None:  # there were other readers than the merge
        gradient, sums = gradient + part, None
    gradient = next((one for one in (gradient, part) if one is not None), None)
    gradient = torch.zeros_like(x) if gradient is None else gradient
    of_pool = x.new_zeros(x.shape[:2]) if of_pool is None else of_pool
    incoming = (gradient, of_pool, of_shortcut_pool, sums, of_shortcut)
    dx, ds, weight, bias = residual_output_backward(*incoming, *saved, ctx.epsilon, ctx.own)
    return dx, ds, weight, bias, *[None] * 5


differentiable(residual_output, _keep_inputs, _backward)
