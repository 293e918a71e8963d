"""The four passes of `light_merge_norm`: calls of light_merge.cpp."""

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crosslayer.ops.fused.layout import accumulator
from crosslayer.ops.fused.light_terms import Incoming, Moments, Norm, Sums, Terms, taps_of
from crosslayer.ops.native.types import Size, address, addresses, call, lying, lying_as, size_of


class Prepared(NamedTuple):
    """Maps with channels side by side, and every image's own kernels (batch × taps × channels) on x and on s."""

    x: Tensor
    shortcut: Tensor
    of_value: Tensor
    of_shortcut: Tensor


class Kernels(ctypes.Structure):
    """`Kernels` of light_merge.cpp."""

    _fields_ = (
        ("of_value", ctypes.c_void_p),
        ("of_shortcut", ctypes.c_void_p),
        ("carried", ctypes.c_bool),
    )


def moments(terms: Terms, merged: Tensor) -> Moments:
    """Of z, in each image; and z."""
    given = prepared(terms)
    means, deviations = given.of_value.new_empty((2, *terms.x.shape[:2])).unbind()
    call("light_merge", "moments", merged.dtype, *beginning(given), *map(address, (merged, means, deviations)))
    count = means.new_full((means.shape[0], 1), terms.x.shape[2] * terms.x.shape[3])
    return Moments(count, means, deviations)


def normalise(terms: Terms, norm: Norm, merged: Tensor | None, _pooled: bool) -> tuple[Tensor, Tensor]:
    """x + keep · (w · (z - μ) / √(σ² + ε) + b), and its sums over the maps, which cost nothing here."""
    assert norm.bias is not None
    slope = norm.weight * norm.inverse
    rows = [norm.kept(row.expand(terms.x.shape[:2])) for row in (slope, norm.bias - norm.mean * slope)]
    slopes, shifts = (row.to(accumulator(terms.x)).contiguous() for row in rows)
    x, affine = lying(terms.x), addresses(slopes, shifts)
    out, sums = torch.empty_like(x), torch.empty_like(slopes)
    outputs = (address(out), address(sums))
    if merged is None:
        given = prepared(terms)
        call("light_merge", "merge_and_normalise", out.dtype, *beginning(given), affine, *outputs)
    else:
        call("light_merge", "normalise", out.dtype, address(x), address(merged), size_of(x), affine, *outputs)
    return lying_as(terms.x, out), sums


def received(gradient: Incoming) -> Incoming:
    """Laid out as the functions expect it."""
    map_, everywhere = gradient
    if everywhere is None:
        everywhere = map_.new_zeros(map_.shape[:2], dtype=accumulator(map_))
    return Incoming(lying(map_), everywhere.contiguous())


def norm_sums(gradient: Incoming, terms: Terms, norm: Norm, merged: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first pass backward: Σ dout and Σ dout (z - μ) for each image and channel."""
    mean = norm.mean.contiguous()
    plain, weighted = mean.new_empty((2, *terms.x.shape[:2])).unbind()
    outputs = map(address, (mean, plain, weighted))
    call("light_merge", "norm_sums", merged.dtype, addresses(*gradient), address(merged), size_of(terms.x), *outputs)
    return merged, plain, weighted


def merge_gradients(
    gradient: Incoming, merged: Tensor | None, terms: Terms, norm: Norm, affine: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Sums]:
    """The last pass backward: dx, ds and the sums from which all else follows; see the same pass in `ops.triton`."""
    given = prepared(terms)
    slope = norm.weight * norm.inverse
    slopes = norm.kept(slope.expand(terms.x.shape[:2])).contiguous()
    if affine is None:  # dout stands for dz, so what dz would be multiplied with goes into the kernels
        factor = slopes[:, None]
        given = given._replace(of_value=given.of_value * factor, of_shortcut=given.of_shortcut * factor)
        rows = (torch.ones_like(slopes), None, None, None)
    else:
        count = terms.x.shape[0] * terms.x.shape[2] * terms.x.shape[3]
        of_weight, of_bias = (one / count for one in affine)
        rows = (slopes, slope * of_bias, slope * of_weight * norm.inverse, norm.mean.contiguous())
    dx, ds = torch.empty_like(given.x), torch.empty_like(given.shortcut)
    sums = Sums(torch.empty_like(slopes), torch.empty_like(given.of_value), torch.empty_like(given.of_shortcut))
    maps = map(address, (given.x, given.shortcut, merged))
    arguments = (addresses(*gradient), *maps, *kernels_and_size(given), addresses(*rows))
    call("light_merge", "merge_gradients", dx.dtype, *arguments, *map(address, (dx, ds, *sums)))
    return lying_as(terms.x, dx), lying_as(terms.x, ds), sums


def prepared(terms: Terms) -> Prepared:
    """Copies only maps that lie otherwise; folds the gate into K, the scale into the centre of K_s."""
    exact_type = accumulator(terms.x)
    gate, scale = (rows.to(exact_type)[:, None] for rows in (terms.gate, terms.scale))
    of_value = gate * taps_of(terms.value_kernel).to(exact_type)
    of_shortcut = scale
    if terms.shortcut_kernel is not None:
        of_shortcut = taps_of(terms.shortcut_kernel).to(exact_type).repeat(scale.shape[0], 1, 1)
        of_shortcut[:, 4:5] += scale
    return Prepared(lying(terms.x), lying(terms.shortcut), of_value.contiguous(), of_shortcut.contiguous())


def beginning(given: Prepared) -> tuple[Any, ...]:
    """As functions begin that compute z."""
    return address(given.x), address(given.shortcut), *kernels_and_size(given)


def kernels_and_size(given: Prepared) -> tuple[Kernels, Size]:
    """Every image's kernels, and the maps' size."""
    kernels = Kernels(address(given.of_value), address(given.of_shortcut), given.of_shortcut.shape[1] > 1)
    return kernels, size_of(given.x)
