"""`history_sum` as one pass forward and one backward, for all stored layers together.

Moved per call, in maps: forward T reads and 1 write; backward T + 1 reads. The gradients of the values are
grad_slots.py's: for each value, as many reads as it has readers, and 1 write. Nothing is kept for the backward pass but
the inputs.
"""

from torch import Tensor

from crosslayer.fused.custom_op import custom_op, differentiable
from crosslayer.fused.history_sum.grad_slots import no_gradient, passes, reader_gradients
from crosslayer.fused.layout import alike, new_map


@custom_op("history_sum", fake=lambda values, *others: new_map(values[0]))
def weighted_sum(
    values: list[Tensor], factors: Tensor, slotted: list[int], shares: list[Tensor], slot_factors: list[Tensor]
) -> Tensor:
    """Σ_m f_m ⊙ V_m, with a factor for each image, layer and channel.

    The values at the places in `slotted` are detached; their gradients go through a slot on each.
    """
    return passes(values[0]).weighted_sum(values, factors, None)


@custom_op("history_sum_backward", fake=lambda gradient, values, factors: factors.new_empty(factors.shape))
def factor_gradients(gradient: Tensor, values: list[Tensor], factors: Tensor) -> Tensor:
    """The factors' gradient."""
    return passes(values[0]).factor_gradients(gradient, values).to(factors.dtype)


def _keep_inputs(ctx, inputs, output) -> None:
    values, factors, ctx.slotted, *_ = inputs
    ctx.save_for_backward(*values, factors)


def _backward(ctx, gradient):
    *values, factors = ctx.saved_tensors
    gradient = alike(gradient, values[0])
    direct, *through_slots = reader_gradients(gradient, factors, ctx.slotted)
    return direct, factor_gradients(gradient, values, factors), no_gradient(ctx.slotted), *through_slots


differentiable(weighted_sum, _keep_inputs, _backward)
