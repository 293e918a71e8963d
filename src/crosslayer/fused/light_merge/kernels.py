"""What is merged in the kernels of `light_merge`, and its forward kernels; see fused/light_merge_norm.py."""

# Triton reads these functions itself; to a type checker its tensors are tuples, and numbers no constants of its.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from crosslayer.fused.gpu.normalisation_kernels import add_value, block_output, load_norm, normalised, store_moments
from crosslayer.fused.gpu.tile_kernels import per_image, place, store_sum
from crosslayer.fused.gpu.window_kernels import columns_of, convolve, is_row, load_row, load_taps, offsets_of


@triton.jit
def load_terms(
    value_kernel, gate, scale, shortcut_kernel, ending, batch, channels, channel, present,
    HAS_KERNEL: tl.constexpr, ENDED: tl.constexpr, ENDING_EPSILON: tl.constexpr, ACC: tl.constexpr,
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
        end = load_norm(ending, channel, present, ENDING_EPSILON, ACC)
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
            block_output(own[0], added[0], end, inside[0] & there, x.dtype.element_ty),
            block_output(own[1], added[1], end, inside[1] & there, x.dtype.element_ty),
            block_output(own[2], added[2], end, inside[2] & there, x.dtype.element_ty),
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
def merge_moments_kernel(
    x, shortcut, value_kernel, gate, scale, shortcut_kernel, partials, height, width, channels, row_chunks, strides,
    HAS_KERNEL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Count, mean and sum of squared deviations of z in every channel of this program's rows (Welford's update)."""
    batch, first, channel, present = place(row_chunks, channels, ROWS, CHANNELS)
    terms = load_terms(
        value_kernel, gate, scale, shortcut_kernel, (), batch, channels, channel, present, HAS_KERNEL, False, 0.0, ACC
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
def merge_normalise_kernel(
    x, shortcut, value_kernel, gate, scale, shortcut_kernel, norm, keep, out, partials,
    height, width, channels, row_chunks, strides,
    HAS_KERNEL: tl.constexpr, HAS_KEEP: tl.constexpr, POOLED: tl.constexpr, EPSILON: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """out = x + keep · (w · (z - μ) / √(σ² + ε) + b): x and s read once, out written once; its sum, if wanted."""
    batch, first, channel, present = place(row_chunks, channels, ROWS, CHANNELS)
    terms = load_terms(
        value_kernel, gate, scale, shortcut_kernel, (), batch, channels, channel, present, HAS_KERNEL, False, 0.0, ACC
    )
    centre, slope, shift = load_norm(norm, channel, present, EPSILON, ACC)
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
