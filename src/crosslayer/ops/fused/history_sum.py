"""`history_sum` as one pass forward and one backward, for all stored layers together.

Moved per call, in maps: forward T reads and 1 write; backward T + 1 reads. The gradients of the values are claims.py's:
for each value, as many reads as it has readers, and 1 write. Nothing is kept for the backward pass but the inputs.
"""

import torch
from torch import Tensor

from crosslayer.ops.fused.backends import passes_of
from crosslayer.ops.fused.claims import answers
from crosslayer.ops.fused.layout import new_map


@torch.library.custom_op("crosslayer::history_sum", mutates_args=())
def fused(values: list[Tensor], factors: Tensor, shares: list[Tensor], claimed_factors: list[Tensor]) -> Tensor:
    """Σ_m f_m ⊙ V_m, with a factor for each image, layer and channel.

    The values are detached; their gradients go through a claim on each.
    """
    return passes_of("history", values[0]).weighted_sum(values, factors)


@fused.register_fake
def _(values: list[Tensor], factors: Tensor, shares: list[Tensor], claimed_factors: list[Tensor]) -> Tensor:
    return new_map(values[0])


@torch.library.custom_op("crosslayer::history_sum_backward", mutates_args=())
def fused_backward(gradient: Tensor, values: list[Tensor], factors: Tensor) -> Tensor:
    """The factors' gradient."""
    return passes_of("history", values[0]).factor_gradients(gradient, values).to(factors.dtype)


@fused_backward.register_fake
def _(gradient: Tensor, values: list[Tensor], factors: Tensor) -> Tensor:
    return factors.new_empty(factors.shape)


def keep_inputs(ctx, inputs, output) -> None:
    """What the backward pass needs."""
    ctx.save_for_backward(*inputs[0], inputs[1])


def backward(ctx, gradient):
    """The factors' gradient, and what the claims receive."""
    *values, factors = ctx.saved_tensors
    return [None] * len(values), fused_backward(gradient, values, factors), *answers(gradient, factors)


fused.register_autograd(backward, setup_context=keep_inputs)
