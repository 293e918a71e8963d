"""The two passes of `value_map`: launches of Triton's kernels."""

from torch import Tensor

from crosslayer.ops.fused.layout import accumulator, dense, new_map
from crosslayer.ops.fused.light_terms import Incoming, kernel_of
from crosslayer.ops.triton.arguments import alike, gathered
from crosslayer.ops.triton.launch import launch_over, plan
from crosslayer.ops.triton.value_kernels import value_gradient_kernel, value_kernel


def convolve(x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """DW(x; K), and its sums over the maps."""
    value, x = new_map(x), dense(x)
    launch = plan(x)
    partials = x.new_empty((launch.programs, x.shape[1]), dtype=accumulator(x))
    launch_over(value_kernel, launch, x, x, kernel.contiguous(), value, partials)
    return value, gathered(partials, launch)


def gradients(gradient: Incoming, x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Of x, and in the precision of the arithmetic of K."""
    dx, x = new_map(x), dense(x)
    launch = plan(x)
    partials = x.new_empty((launch.programs, 9, x.shape[1]), dtype=accumulator(x))
    end = (x, gradient.everywhere, x, ())  # not read
    maps = (alike(gradient.map, x), gradient.everywhere, x, kernel.contiguous())
    launch_over(value_gradient_kernel, launch, x, *maps, *end, dx, partials, ENDED=False, EPSILON=0.0, SUMS=9)
    return dx, kernel_of(partials.sum(0))
