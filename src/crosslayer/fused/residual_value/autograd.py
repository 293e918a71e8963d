"""`residual_value` as one op: three passes over the maps to train, two to evaluate, two backward.

With out = ReLU(w r (x - μ) + b + s), V = DW(out; K), their pools and r as in `residual_output`, g is the gradient of
out through ReLU, and all else follows from it as there:

    g = dout + dpool / hw + DWᵀ(dV; K)  where out is above zero, else 0

out is not kept for the backward pass but made anew from x and s, which are kept anyway: x by the normalisation, s as
what the block's first convolution was given.
"""

import torch
from torch import Tensor

from crosslayer.fused.batch_norm import Incoming, norm_of, through_statistics
from crosslayer.fused.custom_op import custom_op, depthwise_backward_flops, depthwise_flops, differentiable
from crosslayer.fused.layout import laid_out_as, new_map
from crosslayer.fused.pooling import everywhere, pool_of_sums
from crosslayer.fused.residual_output.autograd import passes as output_passes
from crosslayer.fused.residual_value import cpu
from crosslayer.fused.support import runs_triton


def passes(x: Tensor):
    """Those over maps like x."""
    if runs_triton(x):
        from crosslayer.fused.residual_value import gpu

        return gpu
    return cpu


def _shapes(x, *others):
    return new_map(x), x.new_empty(x.shape[:2]), new_map(x), x.new_empty(x.shape[:2])


def _flops(x, shortcut, weight, bias, mean, variance, kernel, epsilon, own):
    return depthwise_flops(x, kernel)


@custom_op("residual_value", fake=_shapes, flops=_flops)
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
    """Out and V, each with its mean over each image's map behind it; that of V has no gradient.

    With `own`, μ and σ² are x's, from `residual_output`'s `statistics`, and the gradient goes through them.
    """
    norm = norm_of([weight, bias, mean, variance], epsilon, x)
    out, sums = output_passes(x).output(x, shortcut, norm)
    value, value_sums = passes(x).convolve(out, kernel)
    return out, pool_of_sums(sums, x), value, pool_of_sums(value_sums, x)


def _backward_shapes(of_out, of_pool, of_value, x, shortcut, weight, bias, mean, variance, kernel, epsilon, own):
    of_norm = torch.empty_like(weight), torch.empty_like(bias)
    return new_map(x), new_map(x), *of_norm, kernel.new_empty(kernel.shape)


def _backward_flops(of_out, of_pool, of_value, x, shortcut, weight, bias, mean, variance, kernel, epsilon, own):
    return depthwise_backward_flops(x, kernel)


@custom_op("residual_value_backward", fake=_backward_shapes, flops=_backward_flops)
def residual_value_backward(
    of_out: Tensor,
    of_pool: Tensor,
    of_value: Tensor,
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
    norm = norm_of([weight, bias, mean, variance], epsilon, x)
    nothing = norm.mean.new_zeros(x.shape[:2])
    incoming = (Incoming(of_out, everywhere(of_pool, x)), Incoming(of_value, nothing))
    g, sums, of_kernel = passes(x).gradients(*incoming, x, shortcut, norm, kernel)
    affine = of_weight, of_bias = norm.affine_gradients(*sums)
    dx = passes(x).norm_gradient(g, x, norm, through_statistics(affine, own))
    return dx, g, of_weight.to(weight.dtype), of_bias.to(bias.dtype), of_kernel.to(kernel.dtype).contiguous()


def _keep_inputs(ctx, inputs, output) -> None:
    """No map but x and the shortcut."""
    *tensors, ctx.epsilon, ctx.own = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, of_out, of_pool, of_value, _of_value_pool):
    incoming = (of_out, of_pool, of_value)
    saved = ctx.saved_tensors
    dx, ds, weight, bias, of_kernel = residual_value_backward(*incoming, *saved, ctx.epsilon, ctx.own)
    return dx, ds, weight, bias, None, None, laid_out_as(of_kernel, saved[6]), None, None


differentiable(residual_value, _keep_inputs, _backward)
