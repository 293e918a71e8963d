"""Global average pooling whose gradient is never written out: one number per channel, seen as a map."""

import torch
from torch import Tensor

from crosslayer.ops.fused.backends import runs_triton
from crosslayer.ops.fused.layout import exact


def pool_of_sums(sums: Tensor, x: Tensor) -> Tensor:
    """The pool of a map like x, from the sums over it."""
    return (sums / (x.shape[2] * x.shape[3])).to(x.dtype)


def everywhere(of_pool: Tensor, x: Tensor) -> Tensor:
    """What a pool's gradient adds to every position of a map like x, in the precision of the arithmetic."""
    return exact(of_pool, x) / (x.shape[2] * x.shape[3])


@torch.library.custom_op("crosslayer::global_average_pool", mutates_args=())
def global_average_pool(x: Tensor) -> Tensor:
    """The mean of every channel over its map."""
    if runs_triton(x):  # PyTorch's own reduction is as fast as the memory
        return x.mean((2, 3))
    from crosslayer.ops.native.pooling import map_sums

    return pool_of_sums(map_sums(x), x)


@global_average_pool.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:2])


def keep_shape(ctx, inputs, output) -> None:
    """What the backward pass needs."""
    ctx.shape = inputs[0].shape


def backward(ctx, gradient):
    """The same number at every position."""
    return (gradient / (ctx.shape[2] * ctx.shape[3]))[..., None, None].expand(ctx.shape)


global_average_pool.register_autograd(backward, setup_context=keep_shape)
