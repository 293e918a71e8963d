"""Backward kernels of `light_merge_norm`; see light_merge_norm.py for the equations."""

# Triton reads these functions itself; to a type checker its static_range is no iterator, its tensors are tuples.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import triton
import triton.language as tl

from crosslayer.ops.triton.light_kernels import (
    columns_of,
    convolve,
    inverse_deviation,
    is_row,
    load_row,
    load_taps,
    load_terms,
    merge_row,
    offsets_of,
    open_window,
    per_channel,
    per_image,
    place,
)


@triton.jit
def norm_gradient_kernel(
    gradient, x, shortcut, value_kernel, gate, scale, shortcut_kernel, mean, merged, partials,
    height, width, channels, row_chunks, strides,
    HAS_KERNEL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """z anew, and this program's share of Σ dout and of Σ dout · (z - μ)."""
    batch, first, channel, present = place(row_chunks, channels, ROWS, CHANNELS)
    terms = load_terms(value_kernel, gate, scale, shortcut_kernel, batch, channels, channel, present, HAS_KERNEL, ACC)
    centre = per_channel(mean, channel, present, ACC)
    plain = tl.zeros([COLUMNS, CHANNELS], ACC)
    weighted = tl.zeros([COLUMNS, CHANNELS], ACC)
    for tile in range(tl.cdiv(width, COLUMNS)):
        column, inside = columns_of(tile, width, present, COLUMNS)
        offsets = offsets_of(batch, channel, column, strides)
        window = open_window(x + offsets, shortcut + offsets, first, height, strides, inside, HAS_KERNEL, ACC)
        for row in range(first, tl.minimum(first + ROWS, height)):
            z, _, window = merge_row(
                x + offsets, shortcut + offsets, row, height, strides, inside, window, terms, HAS_KERNEL, ACC
            )
            incoming = tl.load(gradient + offsets + row * strides[2], mask=inside[1], other=0.0).to(ACC)
            tl.store(merged + offsets + row * strides[2], z.to(merged.dtype.element_ty), mask=inside[1])
            plain += incoming
            weighted += incoming * (z - centre[None, :])
    start = partials + tl.program_id(0).to(tl.int64) * 2 * channels + channel
    tl.store(start, tl.sum(plain, axis=0), mask=present)
    tl.store(start + channels, tl.sum(weighted, axis=0), mask=present)


@triton.jit
def load_gradient(
    gradient, merged, row, height, strides, inside, coefficients, BATCH_STATISTICS: tl.constexpr, ACC: tl.constexpr
):
    """A row of dz = α dout - β - γ (z - μ); with statistics that do not depend on z, of dout."""
    incoming = load_row(gradient, row, height, strides, inside, ACC)
    if not BATCH_STATISTICS:
        return incoming
    there = is_row(row, height)
    z = load_row(merged, row, height, strides, inside, ACC)
    return (
        one_gradient(incoming[0], z[0], inside[0] & there, coefficients),
        one_gradient(incoming[1], z[1], inside[1] & there, coefficients),
        one_gradient(incoming[2], z[2], inside[2] & there, coefficients),
    )


@triton.jit
def one_gradient(incoming, z, inside, coefficients):
    """α dout - β - γ (z - μ) where there is a map."""
    alpha, beta, gamma, centre = coefficients
    dz = alpha[None, :] * incoming - beta[None, :] - gamma[None, :] * (z - centre[None, :])
    return tl.where(inside, dz, 0.0)


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
def store_sums(start, sums, channels, present):
    """The nine taps' sums over the tile, one row of channels each."""
    for i in tl.static_range(9):
        tl.store(start + i * channels, tl.sum(sums[i], axis=0), mask=present)


@triton.jit
def load_coefficients(
    weight, mean, variance, keep, weight_gradient, bias_gradient, epsilon, count, batch, channel, present,
    HAS_KEEP: tl.constexpr, BATCH_STATISTICS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """α, β, γ and μ of dz = α dout - β - γ (z - μ)."""
    inverse = inverse_deviation(variance, channel, present, epsilon, ACC)
    slope = per_channel(weight, channel, present, ACC) * inverse
    alpha = slope
    if HAS_KEEP:
        alpha = slope * tl.load(keep + batch).to(ACC)
    centre = per_channel(mean, channel, present, ACC)
    if not BATCH_STATISTICS:
        return alpha, slope, slope, centre
    beta = slope * per_channel(bias_gradient, channel, present, ACC) / count
    gamma = slope * per_channel(weight_gradient, channel, present, ACC) * inverse / count
    return alpha, beta, gamma, centre


@triton.jit
def merge_gradient_kernel(
    gradient, merged, x, shortcut, value_kernel, gate, scale, shortcut_kernel,
    weight, mean, variance, keep, weight_gradient, bias_gradient, epsilon, count,
    x_gradient, shortcut_gradient, partials, height, width, channels, row_chunks, strides,
    HAS_KERNEL: tl.constexpr, HAS_KEEP: tl.constexpr, BATCH_STATISTICS: tl.constexpr, SUMS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dx and ds, and this program's share of Σ dz, Σ dz ⊙ x and Σ dz ⊙ s at all nine shifts."""
    batch, first, channel, present = place(row_chunks, channels, ROWS, CHANNELS)
    coefficients = load_coefficients(
        weight, mean, variance, keep, weight_gradient, bias_gradient, epsilon, count, batch, channel, present,
        HAS_KEEP, BATCH_STATISTICS, ACC,
    )  # fmt: skip
    taps = flipped(load_taps(value_kernel, channel, present, ACC))
    own = per_image(gate, batch, channels, channel, present, ACC)
    old = per_image(scale, batch, channels, channel, present, ACC)
    shortcut_taps = taps
    if HAS_KERNEL:
        shortcut_taps = flipped(load_taps(shortcut_kernel, channel, present, ACC))
    if not BATCH_STATISTICS:  # the window holds dout
        own *= coefficients[0]
    zero = tl.zeros([COLUMNS, CHANNELS], ACC)
    plain = zero
    value_sums = (zero, zero, zero, zero, zero, zero, zero, zero, zero)
    shortcut_sums = value_sums
    shortcut_sum = zero
    for tile in range(tl.cdiv(width, COLUMNS)):
        column, inside = columns_of(tile, width, present, COLUMNS)
        offsets = offsets_of(batch, channel, column, strides)
        above = load_gradient(
            gradient + offsets, merged + offsets, first - 1, height, strides, inside, coefficients,
            BATCH_STATISTICS, ACC,
        )  # fmt: skip
        here = load_gradient(
            gradient + offsets, merged + offsets, first, height, strides, inside, coefficients, BATCH_STATISTICS, ACC
        )
        for row in range(first, tl.minimum(first + ROWS, height)):
            at = offsets + row * strides[2]
            below = load_gradient(
                gradient + offsets, merged + offsets, row + 1, height, strides, inside, coefficients,
                BATCH_STATISTICS, ACC,
            )  # fmt: skip
            dx = tl.load(gradient + at, mask=inside[1], other=0.0).to(ACC)
            dx += own[None, :] * convolve(above, here, below, taps)
            tl.store(x_gradient + at, dx.to(x_gradient.dtype.element_ty), mask=inside[1])
            ds = old[None, :] * here[1]
            s = tl.load(shortcut + at, mask=inside[1], other=0.0).to(ACC)
            if HAS_KERNEL:
                ds += convolve(above, here, below, shortcut_taps)
                shortcut_sums = add_products(shortcut_sums, above, here, below, s)
            else:
                shortcut_sum += here[1] * s
            if not BATCH_STATISTICS:
                ds *= coefficients[0][None, :]
            tl.store(shortcut_gradient + at, ds.to(shortcut_gradient.dtype.element_ty), mask=inside[1])
            value = tl.load(x + at, mask=inside[1], other=0.0).to(ACC)
            value_sums = add_products(value_sums, above, here, below, value)
            plain += here[1]
            above = here
            here = below
    start = partials + tl.program_id(0).to(tl.int64) * SUMS * channels + channel
    tl.store(start, tl.sum(plain, axis=0), mask=present)
    store_sums(start + channels, value_sums, channels, present)
    if HAS_KERNEL:
        store_sums(start + 10 * channels, shortcut_sums, channels, present)
    else:
        tl.store(start + 10 * channels, tl.sum(shortcut_sum, axis=0), mask=present)
