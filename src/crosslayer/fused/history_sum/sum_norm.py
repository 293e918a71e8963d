"""`history_sum_norm` on a CPU: two passes over the stored layers to train, one to evaluate, two backward.

With o = Σ_m f_m ⊙ V_m, n positions in the batch, r = 1 / √(σ² + ε), k the images' keep factors and g = dout where the
normalised o is above zero, else 0, for out = x + k ReLU(w r (o - μ) + b):

    db = Σ k g,   dw = Σ k g r (o - μ)
    do = w r (k g - db / n - dw r (o - μ) / n)      where μ and σ² are o's own
    do = w r k g                                    where they were known beforehand
    dx = dout,   df_m = Σ_hw do ⊙ V_m

o is not kept: every pass sums the layers anew, so that nothing but the values, which all blocks share, waits for the
backward pass. The gradients of the values are those of grad_slots.py.
"""

import torch
from torch import Tensor

from crosslayer.fused.batch_norm import Norm, through_statistics
from crosslayer.fused.custom_op import custom_op, differentiable
from crosslayer.fused.history_sum import cpu
from crosslayer.fused.history_sum.grad_slots import no_gradient, reader_gradients
from crosslayer.fused.layout import accumulator, alike, new_map


def _statistics_shapes(values, factors):
    mean = values[0].new_empty(values[0].shape[1], dtype=accumulator(values[0]))
    return mean, torch.empty_like(mean)


@custom_op("history_sum_norm_statistics", fake=_statistics_shapes)
def statistics(values: list[Tensor], factors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of o in every channel, over the batch; `normalise` has the gradient."""
    return cpu.moments(values, factors)


@custom_op("history_sum_norm", fake=lambda x, *others: new_map(x))
def normalise(
    x: Tensor,
    values: list[Tensor],
    factors: Tensor,
    slotted: list[int],
    shares: list[Tensor],
    slot_factors: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    keep: Tensor | None,
    epsilon: float,
    own: bool,
) -> Tensor:
    """x + keep · ReLU(w · (o - μ) / √(σ² + ε) + b), with keep a vector over images.

    The values at the places in `slotted` are detached; their gradients go through a slot on each. With `own`, μ and σ²
    are o's, from `statistics`, and the gradient goes through them.
    """
    return cpu.normalise(x, values, factors, Norm(weight, bias, mean, variance, keep, epsilon).exact(x))


def _backward_shapes(gradient, values, factors, weight, bias, *others):
    return new_map(values[0]), factors.new_empty(factors.shape), torch.empty_like(weight), torch.empty_like(bias)


@custom_op("history_sum_norm_backward", fake=_backward_shapes)
def normalise_backward(
    gradient: Tensor,
    values: list[Tensor],
    factors: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    keep: Tensor | None,
    epsilon: float,
    own: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of o, the factors, weight and bias."""
    norm = Norm(weight, bias, mean, variance, keep, epsilon).exact(values[0])
    gradient = alike(gradient, values[0])
    plain, weighted = cpu.norm_sums(gradient, values, factors, norm)
    affine = of_weight, of_bias = norm.affine_gradients(plain, weighted)
    through = through_statistics(affine, own)
    of_sum, of_factors = cpu.norm_gradients(gradient, values, factors, norm, through)
    return of_sum, of_factors.to(factors.dtype), of_weight.to(weight.dtype), of_bias.to(bias.dtype)


def _keep_inputs(ctx, inputs, output) -> None:
    """No map but the values."""
    _, values, factors, ctx.slotted, _, _, *rows, ctx.epsilon, ctx.own = inputs
    ctx.layers = len(values)
    ctx.save_for_backward(*values, factors, *rows)


def _backward(ctx, gradient):
    saved = ctx.saved_tensors
    values, (factors, *rows) = list(saved[: ctx.layers]), saved[ctx.layers :]
    of_sum, of_factors, *affine = normalise_backward(gradient, values, factors, *rows, ctx.epsilon, ctx.own)
    direct, *through_slots = reader_gradients(of_sum, factors, ctx.slotted)
    return gradient, direct, of_factors, no_gradient(ctx.slotted), *through_slots, *affine, *[None] * 5


differentiable(normalise, _keep_inputs, _backward)
