"""The four passes of `light_merge`: calls of cpu.cpp."""

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crosslayer.fused.batch_norm import Incoming, Norm
from crosslayer.fused.cpu.normalisation import missing, received, structure
from crosslayer.fused.cpu.types import Size, address, addresses, call, lying, lying_as, size_of
from crosslayer.fused.layout import accumulator, exact, taps_of
from crosslayer.fused.light_merge.terms import Ended, Sums, Terms


class _Prepared(NamedTuple):
    """Terms as the functions expect them: channels side by side, the small ones in the precision of the arithmetic."""

    x: Tensor
    shortcut: Tensor
    taps: Tensor
    gate: Tensor
    scale: Tensor
    shortcut_taps: Tensor | None


def moments(terms: Terms, merged: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of z in every channel; writes z."""
    given = _prepared(terms)
    mean, variance = (given.gate.new_empty(terms.x.shape[1]) for _ in range(2))
    call("light_merge", "moments", merged.dtype, *_beginning(given), *map(address, (merged, mean, variance)))
    return mean, variance


def normalise(terms: Terms, norm: Norm, merged: Tensor | None, _pooled: bool) -> tuple[Tensor, Tensor]:
    """x + keep · (w · (z - μ) / √(σ² + ε) + b), and its sums over the maps, which cost nothing here."""
    x = lying(terms.x)
    out, sums = torch.empty_like(x), x.new_empty(x.shape[:2], dtype=accumulator(x))
    rest = (structure(norm), address(out), address(sums))
    if merged is None:
        given = _prepared(terms)
        call("light_merge", "merge_and_normalise", out.dtype, *_beginning(given), *rest)
    else:
        call("light_merge", "normalise", out.dtype, address(x), address(lying(merged)), size_of(x), *rest)
    return lying_as(terms.x, out), sums


def norm_sums(
    gradient: Incoming, terms: Terms, norm: Norm, merged: Tensor, _ended: Ended | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The first pass backward: Σ dout and Σ dout (z - μ) for each image and channel."""
    gradient, merged = received(gradient), lying(merged)
    plain, weighted = norm.mean.new_empty((2, *terms.x.shape[:2])).unbind()
    given = (addresses(*gradient), address(merged), size_of(terms.x), structure(norm))
    call("light_merge", "norm_sums", merged.dtype, *given, address(plain), address(weighted))
    return merged, plain, weighted


def merge_gradients(
    gradient: Incoming,
    merged: Tensor | None,
    terms: Terms,
    norm: Norm,
    affine: tuple[Tensor, Tensor] | None,
    ended: Ended | None,
) -> tuple[Tensor, Tensor, Sums]:
    """The last pass backward: dx, ds and the sums from which all else follows; see the same pass in gpu.py.

    With `ended`, the terms' x is what the output is made of; dx goes through its ReLU, and the sums of it are written.
    """
    gradient, given = received(gradient), _prepared(terms)
    merged, times = None if merged is None else lying(merged), None
    if affine is None:  # dout stands for dz, so z is multiplied with what dz would be
        times = norm.kept((norm.weight * norm.inverse).expand(terms.x.shape[:2])).contiguous()
    dx, ds = torch.empty_like(given.x), torch.empty_like(given.shortcut)
    rows, taps = given.gate.shape, given.taps.shape[0]
    carried = 1 if given.shortcut_taps is None else taps
    sums = Sums(*(given.gate.new_empty(shape) for shape in (rows, *((rows[0], n, rows[1]) for n in (taps, carried)))))
    maps = map(address, (given.x, given.shortcut, merged))
    of_norm = addresses(*(affine or (None, None)))
    ending = structure(ended.norm) if ended else missing(norm)
    of_end = (ending, *map(address, ended.sums.unbind() if ended else (None, None)))
    arguments = (addresses(*gradient), *maps, *_terms_and_size(given, times), structure(norm), of_norm, *of_end)
    call("light_merge", "merge_gradients", dx.dtype, *arguments, *map(address, (dx, ds, *sums)))
    return lying_as(terms.x, dx), lying_as(terms.x, ds), sums


def _prepared(terms: Terms) -> _Prepared:
    """Copies only what lies otherwise."""
    x, shortcut, kernel, gate, scale, carried = terms
    taps = exact(taps_of(kernel), x)
    shortcut_taps = None if carried is None else exact(taps_of(carried), x)
    return _Prepared(lying(x), lying(shortcut), taps, exact(gate, x), exact(scale, x), shortcut_taps)


def _beginning(given: _Prepared) -> tuple[Any, ...]:
    """As functions begin that compute z."""
    return address(given.x), address(given.shortcut), *_terms_and_size(given)


def _terms_and_size(given: _Prepared, times: Tensor | None = None) -> tuple[ctypes.Structure, Size]:
    """`Terms` of cpu.cpp, and the maps' size."""
    return addresses(given.taps, given.gate, given.shortcut_taps, given.scale, times), size_of(given.x)
