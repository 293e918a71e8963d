"""`value_map` as one op: one pass over the maps forward, one backward.

With g = dV + dpool / hw, for V = DW(x; K) and pool = Σ_hw V / hw:

    dx = DWᵀ(g; K),   dK_i = Σ_b Σ_hw g ⊙ (x shifted by tap i)
"""

import torch
from torch import Tensor

from crosslayer.ops.fused.backends import passes_of
from crosslayer.ops.fused.layout import new_map
from crosslayer.ops.fused.light_terms import Incoming
from crosslayer.ops.fused.pooling import everywhere, pool_of_sums


@torch.library.custom_op("crosslayer::value_map", mutates_args=())
def value_map(x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """DW(x; K), and its mean over each image's map."""
    value, sums = passes_of("value_map", x).convolve(x, kernel)
    return value, pool_of_sums(sums, x)


@value_map.register_fake
def _(x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    return new_map(x), x.new_empty(x.shape[:2])


@torch.library.custom_op("crosslayer::value_map_backward", mutates_args=())
def value_map_backward(gradient: Tensor, of_pool: Tensor, x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and the kernel."""
    dx, of_kernel = passes_of("value_map", x).gradients(Incoming(gradient, everywhere(of_pool, x)), x, kernel)
    return dx, of_kernel.to(kernel.dtype).contiguous()


@value_map_backward.register_fake
def _(gradient: Tensor, of_pool: Tensor, x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    return new_map(x), kernel.new_empty(kernel.shape)


def keep_inputs(ctx, inputs, output) -> None:
    """What the backward pass needs: no map but x."""
    ctx.save_for_backward(*inputs)


def backward(ctx, gradient, of_pool):
    """The gradients of x and the kernel."""
    return value_map_backward(gradient, of_pool, *ctx.saved_tensors)


value_map.register_autograd(backward, setup_context=keep_inputs)
