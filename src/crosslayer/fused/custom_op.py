"""How a fused op becomes one of PyTorch's: its shapes without memory, its gradient, and what it counts as.

@custom_op("name", fake=_shapes, flops=_flops)
def op(x: Tensor) -> Tensor: ...

differentiable(op, _keep_inputs, _backward)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

NO_SECOND_DERIVATIVES = (
    "a fused model has no second derivatives (create_graph=True); crosslayer.unfuse(model) gives a model that has them"
)


def custom_op(
    name: str, fake: Callable[..., Any], flops: Callable[..., int] | None = None
) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Registers a function as `crosslayer::name`.

    Args:
        name: of the op.
        fake: the function's outputs without their numbers.
        flops: the op's arguments with shapes in the place of tensors → its floating-point operations; absent, none.
    """

    def registered(function: Callable[..., Any]) -> CustomOpDef:
        op = torch.library.custom_op(f"crosslayer::{name}", function, mutates_args=())
        op.register_fake(fake)
        if flops is not None:
            register_flop_formula(getattr(torch.ops.crosslayer, name))(_without_outputs(flops))
        return op

    return registered


def differentiable(op: CustomOpDef, setup_context: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Registers an op's gradient, as `torch.library.register_autograd` does; asked for its own gradient, it raises.

    Raises:
        RuntimeError: at a backward pass that is to be differentiated.
    """

    def first_derivatives_only(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(NO_SECOND_DERIVATIVES)
        return backward(ctx, *gradients)

    op.register_autograd(first_derivatives_only, setup_context=setup_context)


def depthwise_flops(map_shape: Any, kernel_shape: Any) -> int:
    """What PyTorch counts for a depth-wise convolution that keeps the map's size."""
    return conv_flop_count(list(map_shape), list(kernel_shape), list(map_shape))


def depthwise_backward_flops(map_shape: Any, kernel_shape: Any) -> int:
    """What PyTorch counts for its gradients: that of the kernel as one between all channels."""
    of_map = conv_flop_count(list(map_shape), list(kernel_shape), list(map_shape), transposed=True)
    map_, kernel = ([shape[1], shape[0], *shape[2:]] for shape in (map_shape, kernel_shape))
    return of_map + conv_flop_count(map_, map_, kernel)


def _without_outputs(flops: Callable[..., int]) -> Callable[..., int]:
    def formula(*shapes: Any, out_shape: Any = None, **options: Any) -> int:
        return flops(*shapes, **options)

    return formula
