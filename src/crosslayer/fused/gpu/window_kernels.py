"""3×3 windows in Triton's kernels: what is around a position, depth-wise convolutions of it, and sums over its taps.

A program holds columns × channels of some rows of one image. It walks down the rows with the three rows of its window
in registers, so that each row is fetched once; the two neighbouring columns come from the cache.
"""

# Triton reads these functions itself; to a type checker its static_range is no iterator, its tensors are tuples.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from crosslayer.fused.gpu.tile_kernels import store_sum


@triton.jit
def columns_of(tile, width, present, COLUMNS: tl.constexpr):
    """The tile's columns and, for the columns to the left, at, and to the right of them, what is inside the map."""
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    left = ((column > 0) & (column <= width))[:, None] & present[None, :]
    centre = (column < width)[:, None] & present[None, :]
    right = (column + 1 < width)[:, None] & present[None, :]
    return column, (left, centre, right)


@triton.jit
def offsets_of(batch, channel, column, strides):
    """Where the tile's first row begins in a map."""
    return batch * strides[0] + channel[None, :] * strides[1] + column[:, None] * strides[3]


@triton.jit
def is_row(row, height):
    """Whether the map has such a row; as a tensor, also where the interpreter counts rows in plain integers."""
    row = tl.full([1, 1], 0, tl.int32) + row
    return (row >= 0) & (row < height)


@triton.jit
def load_row(tile, row, height, strides, inside, ACC: tl.constexpr):
    """A row at the tile's columns and at their left and right neighbours, zero outside the map."""
    there = is_row(row, height)
    start = tile + row * strides[2]
    return (
        tl.load(start - strides[3], mask=inside[0] & there, other=0.0).to(ACC),
        tl.load(start, mask=inside[1] & there, other=0.0).to(ACC),
        tl.load(start + strides[3], mask=inside[2] & there, other=0.0).to(ACC),
    )


@triton.jit
def masked(values, row, height, inside):
    """A row and its neighbours, zero outside the map."""
    there = is_row(row, height)
    return (
        tl.where(inside[0] & there, values[0], 0.0),
        tl.where(inside[1] & there, values[1], 0.0),
        tl.where(inside[2] & there, values[2], 0.0),
    )


@triton.jit
def load_received(gradient, row, height, strides, inside, same, ACC: tl.constexpr):
    """A row of a gradient with what is the same everywhere on the map; outside the map too, until it is `masked`."""
    left, centre, right = load_row(gradient, row, height, strides, inside, ACC)
    return left + same, centre + same, right + same


@triton.jit
def load_taps(kernel, channel, present, ACC: tl.constexpr):
    """The nine taps of every channel's 3×3 kernel, row by row."""
    start = kernel + channel * 9
    return (
        tl.load(start, mask=present, other=0.0).to(ACC),
        tl.load(start + 1, mask=present, other=0.0).to(ACC),
        tl.load(start + 2, mask=present, other=0.0).to(ACC),
        tl.load(start + 3, mask=present, other=0.0).to(ACC),
        tl.load(start + 4, mask=present, other=0.0).to(ACC),
        tl.load(start + 5, mask=present, other=0.0).to(ACC),
        tl.load(start + 6, mask=present, other=0.0).to(ACC),
        tl.load(start + 7, mask=present, other=0.0).to(ACC),
        tl.load(start + 8, mask=present, other=0.0).to(ACC),
    )


@triton.jit
def weigh(row, a, b, c):
    """One row of the window times one row of the kernel."""
    return a[None, :] * row[0] + b[None, :] * row[1] + c[None, :] * row[2]


@triton.jit
def convolve(above, here, below, taps):
    """The depth-wise convolution at the middle of the window."""
    return (
        weigh(above, taps[0], taps[1], taps[2])
        + weigh(here, taps[3], taps[4], taps[5])
        + weigh(below, taps[6], taps[7], taps[8])
    )


@triton.jit
def flipped(taps):
    """The kernel of the transposed convolution."""
    return taps[8], taps[7], taps[6], taps[5], taps[4], taps[3], taps[2], taps[1], taps[0]


@triton.jit
def add_products(sums, above, here, below, map_):
    """Adds the map, times each of the window's nine places, to the sums of the nine taps (which lie the other way)."""
    return (
        sums[0] + below[2] * map_,
        sums[1] + below[1] * map_,
        sums[2] + below[0] * map_,
        sums[3] + here[2] * map_,
        sums[4] + here[1] * map_,
        sums[5] + here[0] * map_,
        sums[6] + above[2] * map_,
        sums[7] + above[1] * map_,
        sums[8] + above[0] * map_,
    )


@triton.jit
def store_sums(partials, i, COUNT: tl.constexpr, sums, channels, channel, present):
    """The nine taps' sums, from the i-th of this program's rows on."""
    for tap in tl.static_range(9):
        store_sum(partials, i + tap, COUNT, sums[tap], channels, channel, present)
