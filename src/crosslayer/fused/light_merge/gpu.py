"""The four passes of `light_merge`: launches of Triton's kernels."""

import torch
from torch import Tensor

from crosslayer.fused.batch_norm import Incoming, Norm
from crosslayer.fused.gpu.arguments import gathered, moments_of, rows, together
from crosslayer.fused.gpu.launch import launch_over, plan
from crosslayer.fused.layout import alike, count_of, dense, layout_of, new_map
from crosslayer.fused.light_merge.backward_kernels import merge_gradient_kernel, merge_norm_sums_kernel
from crosslayer.fused.light_merge.kernels import merge_moments_kernel, merge_normalise_kernel
from crosslayer.fused.light_merge.terms import Ended, Sums, Terms


def moments(terms: Terms, _merged: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of z in every channel, from those of each program's part; z is not kept."""
    terms = prepared(terms)
    launch = plan(terms.x)
    partials = moments_of(terms.x, launch)
    launch_over(merge_moments_kernel, launch, terms.x, *addresses(terms), partials, HAS_KERNEL=has_kernel(terms))
    return together(partials)


def normalise(terms: Terms, norm: Norm, _merged: Tensor | None, pooled: bool) -> tuple[Tensor, Tensor | None]:
    """x + keep · (w · (z - μ) / √(σ² + ε) + b), and its sums over the maps if it is `pooled`."""
    out = new_map(terms.x)
    terms = prepared(terms)
    launch = plan(terms.x)
    partials = norm.mean.new_empty((launch.programs if pooled else 0, terms.x.shape[1]))
    vectors = (rows(norm), norm.weight if norm.keep is None else norm.keep, out, partials)
    flags = {
        "HAS_KERNEL": has_kernel(terms),
        "HAS_KEEP": norm.keep is not None,
        "POOLED": pooled,
        "EPSILON": norm.epsilon,
    }
    launch_over(merge_normalise_kernel, launch, terms.x, *addresses(terms), *vectors, **flags)
    return out, gathered(partials, launch) if pooled else None


def norm_sums(
    gradient: Incoming, terms: Terms, norm: Norm, _merged: Tensor, ended: Ended | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The first pass backward: z anew, and Σ dout and Σ dout (z - μ) for each image and channel."""
    terms = prepared(terms)
    launch = plan(terms.x)
    merged = new_map(terms.x)
    partials = norm.mean.new_empty((launch.programs, 2, terms.x.shape[1]))
    incoming = (alike(gradient.map, terms.x), gradient.everywhere)
    arguments = (*incoming, *addresses(terms), rows(_ending_of(ended, norm)), norm.mean, merged, partials)
    flags = {"HAS_KERNEL": has_kernel(terms), **_ending_flags(ended)}
    launch_over(merge_norm_sums_kernel, launch, terms.x, *arguments, **flags)
    plain, weighted = gathered(partials, launch).unbind(1)
    return merged, plain, weighted


def merge_gradients(
    gradient: Incoming,
    merged: Tensor | None,
    terms: Terms,
    norm: Norm,
    affine: tuple[Tensor, Tensor] | None,
    ended: Ended | None,
) -> tuple[Tensor, Tensor, Sums]:
    """The last pass backward: dx, ds and the sums from which all else follows.

    Args:
        gradient: of the output.
        merged: z from the first pass; none without one.
        terms: what z is made of.
        norm: its normalisation.
        affine: gradients of w and b, where the statistics are z's own.
        ended: the terms' x is what this end of a block made the output of; dx goes through its ReLU, and the sums of it
            are written.
    """
    terms = prepared(terms)
    x, launch = terms.x, plan(terms.x)
    dx, ds = new_map(x), torch.empty_like(terms.shortcut, memory_format=layout_of(x))
    taps = 9 if has_kernel(terms) else 1
    partials = norm.mean.new_empty((launch.programs, 10 + taps + (0 if ended is None else 2), x.shape[1]))
    known = affine or (norm.weight, norm.weight)  # not read where statistics were known beforehand
    keep = norm.weight if norm.keep is None else norm.keep
    incoming = alike(gradient.map, x)
    maps = (incoming, gradient.everywhere, incoming if merged is None else merged)
    vectors = (rows(norm), keep, *known, count_of(x))
    arguments = (*maps, *addresses(terms), rows(_ending_of(ended, norm)), *vectors, dx, ds, partials)
    flags = {
        "HAS_KERNEL": has_kernel(terms),
        **_ending_flags(ended),
        "HAS_KEEP": norm.keep is not None,
        "BATCH_STATISTICS": affine is not None,
        "EPSILON": norm.epsilon,
    }
    launch_over(merge_gradient_kernel, launch, x, *arguments, **flags, SUMS=partials.shape[1])
    sums = gathered(partials, launch)
    if ended is not None:
        ended.sums.copy_(sums[:, -2:].transpose(0, 1))
    return dx, ds, Sums(sums[:, 0], sums[:, 1:10], sums[:, 10 : 10 + taps])


def prepared(terms: Terms) -> Terms:
    """Maps of one layout, the rest contiguous; copies only what lies otherwise."""
    x = dense(terms.x)
    return terms.changed(x, alike(terms.shortcut, x), Tensor.contiguous)


def addresses(terms: Terms) -> tuple[Tensor, ...]:
    """What kernels are given; where there is no kernel on the shortcut, one that is not read."""
    return *terms[:5], terms.value_kernel if terms.shortcut_kernel is None else terms.shortcut_kernel


def has_kernel(terms: Terms) -> bool:
    """Whether the shortcut is convolved."""
    return terms.shortcut_kernel is not None


def _ending_of(ended: Ended | None, other: Norm) -> Norm:
    """The normalisation of an end, or another that is not read."""
    return other if ended is None else ended.norm


def _ending_flags(ended: Ended | None) -> dict[str, bool | float]:
    """Whether there is an end, and its ε."""
    return {"ENDED": ended is not None, "ENDING_EPSILON": 0.0 if ended is None else ended.norm.epsilon}
