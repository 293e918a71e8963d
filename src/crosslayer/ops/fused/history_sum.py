"""`history_sum` as one pass forward and one backward, for all stored layers together.

Moved per call, in maps: forward T reads and 1 write; backward T + 1 reads and T writes. Nothing is kept for the
backward pass but the inputs.
"""

import torch
from torch import Tensor

from crosslayer.ops.fused.backends import history_passes
from crosslayer.ops.fused.layout import layout_of, new_map


@torch.library.custom_op("crosslayer::history_sum", mutates_args=())
def fused(values: list[Tensor], factors: Tensor) -> Tensor:
    """Σ_m f_m ⊙ V_m, with a factor for each image, layer and channel."""
    return history_passes(values[0]).weighted_sum(values, factors)


@fused.register_fake
def _(values: list[Tensor], factors: Tensor) -> Tensor:
    return new_map(values[0])


@torch.library.custom_op("crosslayer::history_sum_backward", mutates_args=())
def fused_backward(gradient: Tensor, values: list[Tensor], factors: Tensor) -> tuple[list[Tensor], Tensor]:
    """dV_m and df."""
    value_gradients, factor_gradient = history_passes(values[0]).gradients(gradient, values, factors)
    return value_gradients, factor_gradient.to(factors.dtype)


@fused_backward.register_fake
def _(gradient: Tensor, values: list[Tensor], factors: Tensor) -> tuple[list[Tensor], Tensor]:
    layout = layout_of(values[0])
    return [torch.empty_like(value, memory_format=layout) for value in values], factors.new_empty(factors.shape)


def keep_inputs(ctx, inputs, output) -> None:
    """What the backward pass needs."""
    values, factors = inputs
    ctx.save_for_backward(*values, factors)


def backward(ctx, gradient):
    """The gradients of values and factors."""
    *values, factors = ctx.saved_tensors
    return fused_backward(gradient, values, factors)


fused.register_autograd(backward, setup_context=keep_inputs)
