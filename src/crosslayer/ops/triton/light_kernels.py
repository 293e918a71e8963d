"""What the kernels of `light_merge_norm` share, and its forward kernels.

A program holds columns × channels of some rows of one image. It walks down the rows with the three rows of its 3×3
window in registers, so that each row is fetched once; the two neighbouring columns come from the cache.
"""

# Triton reads these functions itself; to a type checker its tensors are tuples, and numbers no constants of its.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from crosslayer.ops.triton.normalisation_kernels import (
    add_value,
    block_output,
    load_norm,
    normalised,
    store_moments,
)
from crosslayer.ops.triton.tile_kernels import per_image, place, store_sum


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
def load_terms(
    value_kernel, gate, scale, shortcut_kernel, ending, ending_epsilon, batch, channels, channel, present,
    HAS_KERNEL: tl.constexpr, ENDED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What z is made with besides the maps: K, K_s, G and a; and the normalisation that x is made with, if `ENDED`."""
    taps = load_taps(value_kernel, channel, present, ACC)
    shortcut_taps = taps
    if HAS_KERNEL:
        shortcut_taps = load_taps(shortcut_kernel, channel, present, ACC)
    own = per_image(gate, batch, channels, channel, present, ACC)
    old = per_image(scale, batch, channels, channel, present, ACC)
    end = (old, old, old)
    if ENDED:
        end = load_norm(ending, ending_epsilon, channel, present, ACC)
    return taps, shortcut_taps, own, old, end


@triton.jit
def load_rows(
    x, shortcut, row, height, strides, inside, end, HAS_KERNEL: tl.constexpr, ENDED: tl.constexpr, ACC: tl.constexpr
):
    """A row of x, made anew of what is there for it if `ENDED`; and one of the shortcut, where it is needed."""
    own = load_row(x, row, height, strides, inside, ACC)
    added = own
    if HAS_KERNEL or ENDED:
        added = load_row(shortcut, row, height, strides, inside, ACC)
    if ENDED:
        there = is_row(row, height)
        own = (
            tl.where(inside[0] & there, block_output(own[0], added[0], end), 0.0),
            tl.where(inside[1] & there, block_output(own[1], added[1], end), 0.0),
            tl.where(inside[2] & there, block_output(own[2], added[2], end), 0.0),
        )
    return own, added


@triton.jit
def open_window(
    x, shortcut, row, height, strides, inside, terms, HAS_KERNEL: tl.constexpr, ENDED: tl.constexpr, ACC: tl.constexpr
):
    """The rows above `row` and at it, of x and of the shortcut."""
    end = terms[4]
    above, s_above = load_rows(x, shortcut, row - 1, height, strides, inside, end, HAS_KERNEL, ENDED, ACC)
    here, s_here = load_rows(x, shortcut, row, height, strides, inside, end, HAS_KERNEL, ENDED, ACC)
    return above, here, s_above, s_here


@triton.jit
def merge_row(
    x, shortcut, row, height, strides, inside, window, terms,
    HAS_KERNEL: tl.constexpr, ENDED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """z = G ⊙ DW(x; K) + a ⊙ s + DW(s; K_s) at `row`, x there, and the window one row on."""
    above, here, s_above, s_here = window
    taps, shortcut_taps, own, old, end = terms
    below, s_below = load_rows(x, shortcut, row + 1, height, strides, inside, end, HAS_KERNEL, ENDED, ACC)
    z = own[None, :] * convolve(above, here, below, taps)
    if HAS_KERNEL or ENDED:
        z += old[None, :] * s_here[1]
    else:
        z += old[None, :] * tl.load(shortcut + row * strides[2], mask=inside[1], other=0.0).to(ACC)
    if HAS_KERNEL:
        z += convolve(s_above, s_here, s_below, shortcut_taps)
    return z, here[1], (here, below, s_here, s_below)


@triton.jit
def statistics_kernel(
    x, shortcut, value_kernel, gate, scale, shortcut_kernel, partials, height, width, channels, row_chunks, strides,
    HAS_KERNEL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Count, mean and sum of squared deviations of z in every channel of this program's rows (Welford's update)."""
    batch, first, channel, present = place(row_chunks, channels, ROWS, CHANNELS)
    terms = load_terms(
        value_kernel, gate, scale, shortcut_kernel, (), 0.0, batch, channels, channel, present, HAS_KERNEL, False, ACC
    )
    zero = tl.zeros([COLUMNS, CHANNELS], ACC)
    moments = (tl.zeros([COLUMNS, 1], ACC), zero, zero)
    for tile in range(tl.cdiv(width, COLUMNS)):
        column, inside = columns_of(tile, width, present, COLUMNS)
        offsets = offsets_of(batch, channel, column, strides)
        window = open_window(
            x + offsets, shortcut + offsets, first, height, strides, inside, terms, HAS_KERNEL, False, ACC
        )
        for row in range(first, tl.minimum(first + ROWS, height)):
            z, _, window = merge_row(
                x + offsets, shortcut + offsets, row, height, strides, inside, window, terms, HAS_KERNEL, False, ACC
            )
            moments = add_value(moments, z, inside[1], (column < width)[:, None])
    store_moments(partials, moments, channels, channel, present, CHANNELS, ACC)


@triton.jit
def normalise_kernel(
    x, shortcut, value_kernel, gate, scale, shortcut_kernel, norm, keep, out, partials, epsilon,
    height, width, channels, row_chunks, strides,
    HAS_KERNEL: tl.constexpr, HAS_KEEP: tl.constexpr, POOLED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """out = x + keep · (w · (z - μ) / √(σ² + ε) + b): x and s read once, out written once; its sum, if wanted."""
    batch, first, channel, present = place(row_chunks, channels, ROWS, CHANNELS)
    terms = load_terms(
        value_kernel, gate, scale, shortcut_kernel, (), 0.0, batch, channels, channel, present, HAS_KERNEL, False, ACC
    )
    centre, slope, shift = load_norm(norm, epsilon, channel, present, ACC)
    if HAS_KEEP:
        kept = tl.load(keep + batch).to(ACC)
        slope *= kept
        shift *= kept
    affine = (centre, slope, shift)
    total = tl.zeros([COLUMNS, CHANNELS], ACC)
    for tile in range(tl.cdiv(width, COLUMNS)):
        column, inside = columns_of(tile, width, present, COLUMNS)
        offsets = offsets_of(batch, channel, column, strides)
        window = open_window(
            x + offsets, shortcut + offsets, first, height, strides, inside, terms, HAS_KERNEL, False, ACC
        )
        for row in range(first, tl.minimum(first + ROWS, height)):
            z, here, window = merge_row(
                x + offsets, shortcut + offsets, row, height, strides, inside, window, terms, HAS_KERNEL, False, ACC
            )
            made = here + normalised(z, affine)
            tl.store(out + offsets + row * strides[2], made.to(out.dtype.element_ty), mask=inside[1])
            if POOLED:
                total += tl.where(inside[1], made, 0.0)
    if POOLED:
        store_sum(partials, 0, 1, total, channels, channel, present)
