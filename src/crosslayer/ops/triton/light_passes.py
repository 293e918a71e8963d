"""The four passes of `light_merge_norm`: launches of Triton's kernels."""

import torch
from torch import Tensor

from crosslayer.ops.fused.layout import accumulator, dense, layout_of, new_map
from crosslayer.ops.fused.light_terms import Incoming, Norm, Sums, Terms
from crosslayer.ops.triton.launch import Plan, launch_over, plan
from crosslayer.ops.triton.light_backward_kernels import merge_gradient_kernel, norm_gradient_kernel
from crosslayer.ops.triton.light_kernels import normalise_kernel, statistics_kernel


def moments(terms: Terms, _merged: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of z in every channel, from those of each program's part; z is not kept."""
    terms = prepared(terms)
    launch = plan(terms.x)
    partials = terms.x.new_empty((3, launch.programs, terms.x.shape[1]), dtype=accumulator(terms.x))
    launch_over(statistics_kernel, launch, terms.x, *addresses(terms), partials, HAS_KERNEL=has_kernel(terms))
    counts, means, deviations = partials.unbind()
    total = counts.sum(0).clamp_min(1)  # an empty batch has none
    mean = (counts * means).sum(0) / total
    return mean, (deviations + counts * (means - mean).square()).sum(0) / total


def normalise(terms: Terms, norm: Norm, _merged: Tensor | None, pooled: bool) -> tuple[Tensor, Tensor | None]:
    """x + keep · (w · (z - μ) / √(σ² + ε) + b), and its sums over the maps in a pass of their own."""
    out = new_map(terms.x)
    terms = prepared(terms)
    keep = norm.weight if norm.keep is None else norm.keep
    vectors = (norm.weight, norm.bias, norm.mean, norm.variance, keep, out, norm.epsilon)
    flags = {"HAS_KERNEL": has_kernel(terms), "HAS_KEEP": norm.keep is not None}
    launch_over(normalise_kernel, plan(terms.x), terms.x, *addresses(terms), *vectors, **flags)
    return out, out.sum((2, 3), dtype=accumulator(out)) if pooled else None


def received(gradient: Incoming) -> Incoming:
    """The kernels take one map: what a pool's gradient adds everywhere is added to it beforehand."""
    map_, everywhere = gradient
    return gradient if everywhere is None else Incoming(map_ + everywhere.to(map_.dtype)[..., None, None], None)


def norm_sums(gradient: Incoming, terms: Terms, norm: Norm, _merged: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first pass backward: z anew, and Σ dout and Σ dout (z - μ) for each image and channel."""
    terms = prepared(terms)
    launch = plan(terms.x)
    merged = new_map(terms.x)
    partials = norm.mean.new_empty((launch.programs, 2, terms.x.shape[1]))
    arguments = (alike(gradient.map, terms.x), *addresses(terms), norm.mean, merged, partials)
    launch_over(norm_gradient_kernel, launch, terms.x, *arguments, HAS_KERNEL=has_kernel(terms))
    plain, weighted = per_image(partials, launch).unbind(1)
    return merged, plain, weighted


def merge_gradients(
    gradient: Incoming,
    merged: Tensor | None,
    terms: Terms,
    norm: Norm,
    affine: tuple[Tensor, Tensor] | None,
    _ended: None,
) -> tuple[Tensor, Tensor, Sums]:
    """The last pass backward: dx, ds and the sums from which all else follows.

    Args:
        gradient: of the output.
        merged: z from the first pass; none without one.
        terms: what z is made of.
        norm: its normalisation.
        affine: gradients of w and b, where the statistics are z's own.
    """
    terms = prepared(terms)
    x, launch = terms.x, plan(terms.x)
    dx, ds = new_map(x), torch.empty_like(terms.shortcut, memory_format=layout_of(x))
    rows = 19 if has_kernel(terms) else 11
    partials = norm.mean.new_empty((launch.programs, rows, x.shape[1]))
    known = affine or (norm.weight, norm.weight)  # not read where statistics were known beforehand
    keep = norm.weight if norm.keep is None else norm.keep
    vectors = (norm.weight, norm.mean, norm.variance, keep, *known)
    count = x.shape[0] * x.shape[2] * x.shape[3]
    incoming = alike(gradient.map, x)
    arguments = (
        incoming,
        incoming if merged is None else merged,
        *addresses(terms),
        *vectors,
        norm.epsilon,
        count,
        dx,
        ds,
        partials,
    )
    flags = {"HAS_KERNEL": rows == 19, "HAS_KEEP": norm.keep is not None, "BATCH_STATISTICS": affine is not None}
    launch_over(merge_gradient_kernel, launch, x, *arguments, SUMS=rows, **flags)
    sums = per_image(partials, launch)
    return dx, ds, Sums(sums[:, 0], sums[:, 1:10], sums[:, 10:])


def prepared(terms: Terms) -> Terms:
    """Maps of one layout, the rest contiguous; copies only what lies otherwise."""
    x = dense(terms.x)
    return terms.changed(x, alike(terms.shortcut, x), Tensor.contiguous)


def alike(map_: Tensor, x: Tensor) -> Tensor:
    """A map laid out as x."""
    return map_.contiguous(memory_format=layout_of(x))


def addresses(terms: Terms) -> tuple[Tensor, ...]:
    """What kernels are given; where there is no kernel on the shortcut, one that is not read."""
    return *terms[:5], terms.value_kernel if terms.shortcut_kernel is None else terms.shortcut_kernel


def has_kernel(terms: Terms) -> bool:
    """Whether the shortcut is convolved."""
    return terms.shortcut_kernel is not None


def per_image(partials: Tensor, launch: Plan) -> Tensor:
    """What an image's programs have gathered, added."""
    return partials.unflatten(0, (launch.programs // launch.row_chunks, launch.row_chunks)).sum(1)
