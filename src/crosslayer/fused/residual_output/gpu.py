"""The four passes of `residual_output`: launches of Triton's kernels."""

from torch import Tensor

from crosslayer.fused.batch_norm import Incoming, Norm
from crosslayer.fused.gpu.arguments import gathered, moments_of, rows, together
from crosslayer.fused.gpu.launch import launch_along, stretches
from crosslayer.fused.layout import alike, count_of, dense, new_map
from crosslayer.fused.residual_output.kernels import (
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
    sums = gathered(partials, launch)
    return out, sums[:, 0], sums[:, 1:].transpose(0, 1).contiguous()


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
    gradient: Incoming,
    x: Tensor,
    shortcut: Tensor,
    known: Tensor | None,
    of_shortcut_pool: Tensor | None,
    norm: Norm,
    through: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """The second pass backward: dx, and ds with what is `known` of it added, and what its pool adds everywhere.

    `through` are dw and db as far as they pass through the statistics.
    """
    dx, ds, x = new_map(x), new_map(x), dense(x)
    incoming, added = alike(gradient.map, x), alike(shortcut, x)
    of_shortcut = gradient.everywhere if of_shortcut_pool is None else of_shortcut_pool
    maps = (incoming, gradient.everywhere, x, added, added if known is None else alike(known, x))
    arguments = (*maps, of_shortcut, rows(norm), *through, count_of(x), dx, ds)
    flags = {"HAS_KNOWN": known is not None, "HAS_POOL": of_shortcut_pool is not None, "EPSILON": norm.epsilon}
    launch_along(residual_gradients_kernel, stretches(x), x, *arguments, **flags)
    return dx, ds
