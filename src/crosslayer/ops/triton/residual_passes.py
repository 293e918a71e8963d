"""The four passes of `residual_output`: launches of Triton's kernels."""

from torch import Tensor

from crosslayer.ops.fused.layout import dense, new_map
from crosslayer.ops.fused.light_terms import Incoming, Norm
from crosslayer.ops.triton.arguments import alike, gathered, moments_of, number_of, rows, together
from crosslayer.ops.triton.launch import launch_along, stretches
from crosslayer.ops.triton.residual_kernels import (
    residual_gradients_kernel,
    residual_moments_kernel,
    residual_norm_sums_kernel,
    residual_output_kernel,
)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of x in every channel."""
    x = dense(x)
    launch = stretches(x)
    partials = moments_of(x, launch)
    launch_along(residual_moments_kernel, launch, x, x, partials)
    return together(partials)


def output(x: Tensor, shortcut: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """ReLU(w · (x - μ) / √(σ² + ε) + b + s), and its sums over the maps."""
    out, sums, _ = counted_output(x, shortcut, norm)  # counting costs no time here
    return out, sums


def counted_output(x: Tensor, shortcut: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Likewise; and where the output is above zero, its count and Σ (x - μ) for each image and channel: 2 × B × C."""
    out, x = new_map(x), dense(x)
    launch = stretches(x)
    partials = norm.mean.new_empty((launch.programs, 3, x.shape[1]))
    maps = (x, alike(shortcut, x), rows(norm), out, partials)
    launch_along(residual_output_kernel, launch, x, *maps, EPSILON=norm.epsilon)
    sums = gathered(partials, launch).transpose(0, 1).contiguous()
    return out, sums[0], sums[1:].clone()


def norm_sums(gradient: Incoming, x: Tensor, shortcut: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """The first pass backward: Σ g and Σ g (x - μ) for each image and channel."""
    x = dense(x)
    launch = stretches(x)
    partials = norm.mean.new_empty((launch.programs, 2, x.shape[1]))
    maps = (alike(gradient.map, x), gradient.everywhere, x, alike(shortcut, x))
    launch_along(residual_norm_sums_kernel, launch, x, *maps, rows(norm), partials, EPSILON=norm.epsilon)
    plain, weighted = gathered(partials, launch).unbind(1)
    return plain, weighted


def gradients(
    gradient: Incoming, x: Tensor, shortcut: Tensor, known: Tensor | None, norm: Norm, through: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The second pass backward: dx, and ds with what is `known` of it added.

    `through` are dw and db as far as they pass through the statistics.
    """
    dx, ds, x = new_map(x), new_map(x), dense(x)
    incoming, added = alike(gradient.map, x), alike(shortcut, x)
    maps = (incoming, gradient.everywhere, x, added, added if known is None else alike(known, x))
    arguments = (*maps, rows(norm), *through, number_of(x), dx, ds)
    launch_along(
        residual_gradients_kernel, stretches(x), x, *arguments, HAS_KNOWN=known is not None, EPSILON=norm.epsilon
    )
    return dx, ds
