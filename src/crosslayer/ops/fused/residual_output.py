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
`Claims` that come with the output, its own ds beside them. The share that is missing is dpool / hw wherever out is
above zero, and what that adds to the sums follows from two numbers for each image and channel, which were counted when
the output was made.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from crosslayer.ops.fused.backends import passes_of
from crosslayer.ops.fused.layout import accumulator, new_map
from crosslayer.ops.fused.light_terms import Incoming, norm_of, through_statistics
from crosslayer.ops.fused.pooling import everywhere, pool_of_sums


class Claims(NamedTuple):
    """The right of one merge to send back gradients in parts: tensors without memory, taken at most once."""

    gradient: Tensor
    """Of the output, through ReLU, but for the pool's."""
    sums: Tensor
    """2 × batch × channels: Σ g and Σ g (x - μ) of that."""
    shortcut: Tensor
    """Of the shortcut, by the merge's own reading of it."""


class Ending(NamedTuple):
    """How an output was made, for those who make it anew, and the claims on it."""

    shortcut: Tensor
    made_of: list[Tensor]
    """The normalisation's input, w, b, μ and σ²."""
    epsilon: float
    claims: Claims


@torch.library.custom_op("crosslayer::residual_statistics", mutates_args=())
def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of x in every channel, over the batch; `residual_output` has the gradient."""
    return passes_of("residual", x).moments(x)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """ReLU(w · (x - μ) / √(σ² + ε) + b + s), its mean over each image's map, what was counted, and three claims.

    With `own`, μ and σ² are x's, from `statistics`, and the gradient goes through them.
    """
    norm = norm_of([weight, bias, mean, variance], epsilon, x)
    out, sums, above = passes_of("residual", x).counted_output(x, shortcut, norm)
    return out, pool_of_sums(sums, x), above, *hollow_claims(x)


@residual_output.register_fake
def _(x, *others):
    above = x.new_empty((2, *x.shape[:2]), dtype=accumulator(x))
    return new_map(x), x.new_empty(x.shape[:2]), above, *hollow_claims(x)


def hollow_claims(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`Claims` on a map like x."""
    sums = x.new_zeros((), dtype=accumulator(x)).expand(2, *x.shape[:2])
    return x.new_zeros(()).expand(x.shape), sums, x.new_zeros(()).expand(x.shape)


@torch.library.custom_op("crosslayer::residual_output_backward", mutates_args=())
def residual_output_backward(
    gradient: Tensor,
    of_pool: Tensor,
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
    passes, norm = passes_of("residual", x), norm_of([weight, bias, mean, variance], epsilon, x)
    same = everywhere(of_pool, x)
    incoming = Incoming(gradient, same)
    known = None if known_sums is None else (known_sums + same * above).unbind()
    plain, weighted = known or passes.norm_sums(incoming, x, shortcut, norm)
    affine = of_weight, of_bias = norm.affine_gradients(plain, weighted)
    through = through_statistics(affine, own)
    dx, ds = passes.gradients(incoming, x, shortcut, known_of_shortcut, norm, through)
    return dx, ds, of_weight.to(weight.dtype), of_bias.to(weight.dtype)


@residual_output_backward.register_fake
def _(gradient, of_pool, known_sums, known_of_shortcut, x, shortcut, weight, *others):
    return new_map(x), new_map(x), torch.empty_like(weight), torch.empty_like(weight)


def keep_inputs(ctx, inputs, output) -> None:
    """What the backward pass needs: no map but x and the shortcut."""
    *tensors, ctx.epsilon, ctx.own = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)


def backward(ctx, gradient, of_pool, _of_above, claimed, sums, of_shortcut):
    """The gradients of the maps and of the affine map."""
    x = ctx.saved_tensors[0]
    if gradient is not None and claimed is not None:  # there were other readers than the merge
        gradient, sums = gradient + claimed, None
    gradient = next((one for one in (gradient, claimed) if one is not None), None)
    gradient = torch.zeros_like(x) if gradient is None else gradient
    of_pool = x.new_zeros(x.shape[:2]) if of_pool is None else of_pool
    incoming = (gradient, of_pool, sums, of_shortcut)
    dx, ds, weight, bias = residual_output_backward(*incoming, *ctx.saved_tensors, ctx.epsilon, ctx.own)
    return dx, ds, weight, bias, None, None, None, None


residual_output.register_autograd(backward, setup_context=keep_inputs)
