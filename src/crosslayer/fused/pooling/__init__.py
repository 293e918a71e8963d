"""Global average pooling whose gradient is never written out: one number per channel, seen as a map."""

import torch
from torch import Tensor

from crosslayer.fused.custom_op import custom_op
from crosslayer.fused.layout import exact
from crosslayer.fused.pooling import cpu
from crosslayer.fused.support import runs_triton
from crosslayer.ops.shapes import Map, Vector


def global_average_pool(x: Map) -> Vector:
    """GAP: the mean of every channel over its map."""
    return _global_average_pool(x)


def known_pool(x: Map, value: Vector) -> Vector:
    """GAP(x) where its numbers are known: `value`, which gets no gradient; x gets the pool's."""
    return _known_pool(x, value)


def pool_of_sums(sums: Tensor, x: Tensor) -> Tensor:
    """The pool of a map like x, from the sums over it."""
    return (sums / (x.shape[2] * x.shape[3])).to(x.dtype)


def everywhere(of_pool: Tensor, x: Tensor) -> Tensor:
    """What a pool's gradient adds to every position of a map like x, in the precision of the arithmetic."""
    return exact(of_pool, x) / (x.shape[2] * x.shape[3])


def expanded(of_pool: Tensor, x_shape: tuple[int, ...]) -> Tensor:
    """A pool's gradient as its map's: the same number at every position."""
    return (of_pool / (x_shape[2] * x_shape[3]))[..., None, None].expand(x_shape)


@custom_op("global_average_pool", fake=lambda x: x.new_empty(x.shape[:2]))
def _global_average_pool(x: Tensor) -> Tensor:
    if runs_triton(x):  # PyTorch's own reduction is as fast as the memory
        return x.mean((2, 3))
    return pool_of_sums(cpu.map_sums(x), x)


@custom_op("known_pool", fake=lambda x, value: value.new_empty(value.shape))
def _known_pool(x: Tensor, value: Tensor) -> Tensor:
    return value.clone(memory_format=torch.contiguous_format)


def _keep_map_shape(ctx, inputs, output) -> None:
    ctx.shape, ctx.dtype = inputs[0].shape, inputs[0].dtype


# These gradients are PyTorch's own operations, so that they have all further derivatives.
_global_average_pool.register_autograd(lambda ctx, g: expanded(g, ctx.shape), setup_context=_keep_map_shape)
_known_pool.register_autograd(
    lambda ctx, g: (expanded(g.to(ctx.dtype), ctx.shape), None), setup_context=_keep_map_shape
)
