"""The one pass of `light_block`: a call of cpu.cpp."""

import ctypes
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from crosslayer.fused.batch_norm import Norm
from crosslayer.fused.cpu.normalisation import missing, structure
from crosslayer.fused.cpu.types import addresses, call, lying, lying_as, size_of
from crosslayer.fused.layout import accumulator, exact

CHUNK_BYTES = 512 * 1024
"""Of x at a time. While a chunk is worked on, so much of the convolution's output, of the shortcut and of the block's
output goes through the same cache: a core's second one, of 1 or 2 MB."""
VECTOR_BYTES = 64
"""A register's, which holds a number for each of a chunk's images."""


class Counts(ctypes.Structure):
    """`Counts` of cpu.cpp."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("window", "head_channels", "squeezed", "chunk"))


class Weights(NamedTuple):
    """What the attention has learned: 1-D convolutions for query and key, K, the stage's kernel if there is one, λ."""

    query: Tensor
    key: Tensor
    value: Tensor
    stage: Tensor | None
    scale: Tensor


class After(NamedTuple):
    """What a block leaves behind for each image, in the precision of the arithmetic but for the pool."""

    gates: Tensor
    carried: Tensor
    recalled: Tensor
    """Empty without a cell, and so is `memory`."""
    memory: Tensor
    pool: Tensor
    """Of the output, in its dtype."""


def light_block(
    convolved: Tensor,
    shortcut: Tensor,
    norms: tuple[Norm, Norm | None, Norm],
    weights: Weights,
    head_channels: int,
    cell: list[Tensor],
    before: list[Tensor | None],
) -> tuple[Tensor, After]:
    """The block's output, and what else it leaves behind.

    Args:
        convolved: what its last convolution made.
        shortcut: likewise of its shortcut.
        norms: that of the residual branch, that of the shortcut if it is still to be done, and that of the merge.
        weights: of its attention.
        head_channels: d.
        cell: its weights, if there is a cell.
        before: the shortcut's pool, and both parts of the context, as far as they are known.
    """
    x, added = lying(convolved), lying(shortcut)
    given = [_exact_all(tensors, x) for tensors in (weights, cell or [None] * 8, before)]
    squeezed = cell[0].shape[0] if cell else 0
    counts = Counts(weights.query.numel(), head_channels, squeezed, chunk(x, _bytes_of(given[1])))
    out, after = torch.empty_like(x), new(x, head_channels, bool(cell))
    maps, small = addresses(x, added, out), (addresses(*tensors) for tensors in (*given, after))
    structures = [missing(norms[0]) if norm is None else structure(norm) for norm in norms]
    call("light_block", "light_block", x.dtype, maps, size_of(x), *structures, *small, counts)
    return lying_as(convolved, out), after


def _exact_all(small: Iterable[Tensor | None], x: Tensor) -> list[Tensor | None]:
    """In the precision of the arithmetic on maps like x."""
    return [None if one is None else exact(one, x) for one in small]


def _bytes_of(tensors: list[Tensor | None]) -> int:
    """Of all that are there."""
    return sum(one.nbytes for one in tensors if one is not None)


def new(x: Tensor, head_channels: int, cell: bool) -> After:
    """Memory for what is left behind."""
    (batch, channels), dtype = x.shape[:2], accumulator(x)
    counts = (channels // head_channels, channels, 3 * channels * cell, channels * cell)
    gates, carried, recalled, memory = (x.new_empty(batch, count, dtype=dtype) for count in counts)
    return After(gates, carried, recalled, memory, x.new_empty(batch, channels))


def chunk(x: Tensor, cell_bytes: int) -> int:
    """How many images go together: those whose x stays in a near cache.

    But at least twice the bytes of the cell, which is read anew for every chunk and costs as much for few images.
    """
    fitting = max(CHUNK_BYTES, 2 * cell_bytes) // max(1, x[:1].nbytes)
    lanes = VECTOR_BYTES // accumulator(x).itemsize
    each = -(-x.shape[0] // torch.get_num_threads())
    return max(1, min(fitting, lanes, each))
