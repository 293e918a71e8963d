"""The passes backward of `residual_value`: launches of Triton's kernels."""

from torch import Tensor

from crosslayer.fused.batch_norm import Incoming, Norm
from crosslayer.fused.gpu.arguments import gathered, rows
from crosslayer.fused.gpu.launch import launch_along, launch_over, plan, stretches
from crosslayer.fused.layout import accumulator, alike, count_of, dense, kernel_of, new_map
from crosslayer.fused.residual_output.kernels import residual_norm_gradient_kernel
from crosslayer.fused.residual_value.kernels import value_gradient_kernel, value_kernel


def convolve(x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """DW(x; K), and its sums over the maps."""
    value, x = new_map(x), dense(x)
    launch = plan(x)
    partials = x.new_empty((launch.programs, x.shape[1]), dtype=accumulator(x))
    launch_over(value_kernel, launch, x, x, kernel.contiguous(), value, partials)
    return value, gathered(partials, launch)


def gradients(
    of_out: Incoming, of_value: Incoming, x: Tensor, shortcut: Tensor, norm: Norm, kernel: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """The first: g, which is ds too; Σ g and Σ g (x - μ) for each image and channel; dK in exact numbers."""
    g, x = new_map(x), dense(x)
    launch = plan(x)
    partials = norm.mean.new_empty((launch.programs, 11, x.shape[1]))
    value = (alike(of_value.map, x), of_value.everywhere, x, kernel.contiguous())
    end = (alike(of_out.map, x), of_out.everywhere, alike(shortcut, x), rows(norm))
    launch_over(value_gradient_kernel, launch, x, *value, *end, g, partials, EPSILON=norm.epsilon)
    plain, weighted = gathered(partials[:, 9:], launch).unbind(1)
    return g, (plain, weighted), kernel_of(partials[:, :9].sum(0))


def norm_gradient(g: Tensor, x: Tensor, norm: Norm, through: tuple[Tensor, Tensor]) -> Tensor:
    """The second: dx; `through` are dw and db as far as they pass through the statistics."""
    dx, x = new_map(x), dense(x)
    given = (alike(g, x), x, rows(norm), *through, count_of(x), dx)
    launch_along(residual_norm_gradient_kernel, stretches(x), x, *given, EPSILON=norm.epsilon)
    return dx
