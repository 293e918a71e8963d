"""`history_sum_norm` on a CPU: two passes over the stored layers to train, one to evaluate, two backward.

With o = Σ_m f_m ⊙ V_m, n positions in the batch, r = 1 / √(σ² + ε), k the images' keep factors and g = dout where the
normalised o is above zero, else 0, for out = x + k ReLU(w r (o - μ) + b):

    db = Σ k g,   dw = Σ k g r (o - μ)
    do = w r (k g - db / n - dw r (o - μ) / n)      where μ and σ² are o's own
    do = w r k g                                    where they were known beforehand
    dx = dout,   df_m = Σ_hw do ⊙ V_m

o is not kept: every pass sums the layers anew, so that nothing but the values, which all blocks share, waits for the
backward pass. The gradients of the values are those of claims.py.
"""

import torch
from torch import Tensor

from crosslayer.ops.fused.claims import answers
from crosslayer.ops.fused.layout import accumulator, new_map
from crosslayer.ops.fused.light_terms import Norm, through_statistics
from crosslayer.ops.native import history_norm_passes as passes


@torch.library.custom_op("crosslayer::history_sum_norm_statistics", mutates_args=())
def statistics(values: list[Tensor], factors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of o in every channel, over the batch; `normalise` has the gradient."""
    return passes.moments(values, factors)


@statistics.register_fake
def _(values: list[Tensor], factors: Tensor) -> tuple[Tensor, Tensor]:
    mean = values[0].new_empty(values[0].shape[1], dtype=accumulator(values[0]))
    return mean, torch.empty_like(mean)


@torch.library.custom_op("crosslayer::history_sum_norm", mutates_args=())
def normalise(
    x: Tensor,
    values: list[Tensor],
    factors: Tensor,
    shares: list[Tensor],
    claimed_factors: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    keep: Tensor | None,
    epsilon: float,
    own: bool,
) -> Tensor:
    """x + keep · ReLU(w · (o - μ) / √(σ² + ε) + b), with keep a vector over images.

    The values are detached; their gradients go through a claim on each. With `own`, μ and σ² are o's, from
    `statistics`, and the gradient goes through them.
    """
    norm = Norm(weight, bias, mean, variance, keep, epsilon).exact(x)
    return passes.normalise(x, values, factors, norm)


@normalise.register_fake
def _(x, *others):
    return new_map(x)


@torch.library.custom_op("crosslayer::history_sum_norm_backward", mutates_args=())
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
    plain, weighted = passes.norm_sums(gradient, values, factors, norm)
    affine = of_weight, of_bias = norm.affine_gradients(plain, weighted)
    through = through_statistics(affine, own)
    of_sum, of_factors = passes.norm_gradients(gradient, values, factors, norm, through)
    return of_sum, of_factors.to(factors.dtype), of_weight.to(weight.dtype), of_bias.to(bias.dtype)


@normalise_backward.register_fake
def _(gradient, values, factors, weight, bias, *others):
    return new_map(values[0]), factors.new_empty(factors.shape), torch.empty_like(weight), torch.empty_like(bias)


def keep_inputs(ctx, inputs, output) -> None:
    """What the backward pass needs: no map but the values."""
    _, values, factors, _, _, *rows, epsilon, own = inputs
    ctx.save_for_backward(*values, factors, *rows)
    ctx.layers, ctx.epsilon, ctx.own = len(values), epsilon, own


def backward(ctx, gradient):
    """The gradients of x, factors, weight and bias, and what the claims receive."""
    values, (factors, *rows) = ctx.saved_tensors[: ctx.layers], ctx.saved_tensors[ctx.layers :]
    of_sum, of_factors, of_weight, of_bias = normalise_backward(
        gradient, list(values), factors, *rows, ctx.epsilon, ctx.own
    )
    claimed = answers(of_sum, factors)
    return gradient, [None] * ctx.layers, of_factors, *claimed, of_weight, of_bias, *[None] * 5


normalise.register_autograd(backward, setup_context=keep_inputs)
