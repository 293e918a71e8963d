"""`residual_value` as one op: three passes over the maps to train, two to evaluate, two backward.

With out = ReLU(w r (x - μ) + b + s), V = DW(out; K), their pools and r as in `residual_output`, g is the gradient of
out through ReLU, and all else follows from it as there:

    g = dout + dpool / hw + DWᵀ(dV + dpool_V / hw; K)  where out is above zero, else 0

out is not kept for the backward pass but made anew from x and s, which are kept anyway: x by the normalisation, s as
what the block's first convolution was given.
"""

import torch
from torch import Tensor

from crosslayer.ops.fused.backends import passes_of
from crosslayer.ops.fused.layout import new_map
from crosslayer.ops.fused.light_terms import Incoming, norm_of, through_statistics
from crosslayer.ops.fused.pooling import everywhere, pool_of_sums


@torch.library.custom_op("crosslayer::residual_value", mutates_args=())
def residual_value(
    x: Tensor,
    shortcut: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    kernel: Tensor,
    epsilon: float,
    own: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Out and V, each with its mean over each image's map behind it.

    With `own`, μ and σ² are x's, from `residual_output`'s `statistics`, and the gradient goes through them.
    """
    norm = norm_of([weight, bias, mean, variance], epsilon, x)
    out, sums = passes_of("residual", x).output(x, shortcut, norm)
    value, value_sums = passes_of("value_map", x).convolve(out, kernel)
    return out, pool_of_sums(sums, x), value, pool_of_sums(value_sums, x)


@residual_value.register_fake
def _(x, *others):
    return new_map(x), x.new_empty(x.shape[:2]), new_map(x), x.new_empty(x.shape[:2])


@torch.library.custom_op("crosslayer::residual_value_backward", mutates_args=())
def residual_value_backward(
    of_out: Tensor,
    of_pool: Tensor,
    of_value: Tensor,
    of_value_pool: Tensor,
    x: Tensor,
    shortcut: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    kernel: Tensor,
    epsilon: float,
    own: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, shortcut, weight, bias and kernel."""
    passes, norm = passes_of("residual_value", x), norm_of([weight, bias, mean, variance], epsilon, x)
    incoming = (Incoming(of_out, everywhere(of_pool, x)), Incoming(of_value, everywhere(of_value_pool, x)))
    g, sums, of_kernel = passes.gradients(*incoming, x, shortcut, norm, kernel)
    affine = of_weight, of_bias = norm.affine_gradients(*sums)
    dx = passes.norm_gradient(g, x, norm, through_statistics(affine, own))
    return dx, g, of_weight.to(weight.dtype), of_bias.to(bias.dtype), of_kernel.to(kernel.dtype).contiguous()


@residual_value_backward.register_fake
def _(of_out, of_pool, of_value, of_value_pool, x, shortcut, weight, bias, mean, variance, kernel, epsilon, own):
    of_norm = torch.empty_like(weight), torch.empty_like(bias)
    return new_map(x), new_map(x), *of_norm, kernel.new_empty(kernel.shape)


def keep_inputs(ctx, inputs, output) -> None:
    """What the backward pass needs: no map but x and the shortcut."""
    *tensors, ctx.epsilon, ctx.own = inputs
    ctx.save_for_backward(*tensors)


def backward(ctx, *gradients):
    """The gradients of the maps, of the affine map and of the kernel."""
    dx, ds, weight, bias, kernel = residual_value_backward(*gradients, *ctx.saved_tensors, ctx.epsilon, ctx.own)
    return dx, ds, weight, bias, None, None, kernel, None, None


residual_value.register_autograd(backward, setup_context=keep_inputs)
