"""`residual_output` on a CPU: two passes over the maps to train, one to evaluate, two backward.

With n positions in the batch, r = 1 / √(σ² + ε) and g = dout + dpool / hw where out is above zero, else 0, for
out = ReLU(w r (x - μ) + b + s) and pool = Σ_hw out / hw:

    db = Σ g,   dw = Σ g r (x - μ),   ds = g
    dx = w r (g - db / n - dw r (x - μ) / n)      where μ and σ² are x's own
    dx = w r g                                    where they were known beforehand
"""

import torch
from torch import Tensor

from crosslayer.ops.fused.layout import accumulator, new_map
from crosslayer.ops.fused.light_terms import Incoming, Norm, through_statistics
from crosslayer.ops.fused.pooling import everywhere, pool_of_sums
from crosslayer.ops.native import residual_passes as passes


@torch.library.custom_op("crosslayer::residual_statistics", mutates_args=())
def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of x in every channel, over the batch; `residual_output` has the gradient."""
    return passes.moments(x)


@statistics.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.new_empty(x.shape[1], dtype=accumulator(x))
    return mean, torch.empty_like(mean)


@torch.library.custom_op("crosslayer::residual_output", mutates_args=())
def residual_output(
    x: Tensor,
    shortcut: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    own: bool,
) -> tuple[Tensor, Tensor]:
    """ReLU(w · (x - μ) / √(σ² + ε) + b + s), and its mean over each image's map.

    With `own`, μ and σ² are x's, from `statistics`, and the gradient goes through them.
    """
    out, sums = passes.output(x, shortcut, Norm(weight, bias, mean, variance, None, epsilon).exact(x))
    return out, pool_of_sums(sums, x)


@residual_output.register_fake
def _(x, *others):
    return new_map(x), x.new_empty(x.shape[:2])


@torch.library.custom_op("crosslayer::residual_output_backward", mutates_args=())
def residual_output_backward(
    gradient: Tensor,
    of_pool: Tensor,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    own: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, shortcut, weight and bias."""
    norm = Norm(weight, None, mean, variance, None, epsilon).exact(x)
    incoming = passes.received(Incoming(gradient, everywhere(of_pool, x)))
    affine = of_weight, of_bias = norm.affine_gradients(*passes.norm_sums(incoming, out, x, norm))
    dx, ds = passes.gradients(incoming, out, x, norm, through_statistics(affine, own))
    return dx, ds, of_weight.to(weight.dtype), of_bias.to(weight.dtype)


@residual_output_backward.register_fake
def _(gradient, of_pool, out, x, weight, *others):
    return new_map(x), new_map(x), torch.empty_like(weight), torch.empty_like(weight)


def keep_inputs(ctx, inputs, output) -> None:
    """What the backward pass needs: x, and the output, which tells where ReLU let through."""
    x, _, weight, _, mean, variance, ctx.epsilon, ctx.own = inputs
    ctx.save_for_backward(output[0], x, weight, mean, variance)


def backward(ctx, gradient, of_pool):
    """The gradients of the maps and of the affine map."""
    dx, ds, weight, bias = residual_output_backward(gradient, of_pool, *ctx.saved_tensors, ctx.epsilon, ctx.own)
    return dx, ds, weight, bias, None, None, None, None


residual_output.register_autograd(backward, setup_context=keep_inputs)
