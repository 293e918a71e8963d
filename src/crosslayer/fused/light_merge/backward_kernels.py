"""Backward kernels of `light_merge`; see gradients.py for the equations."""

# Triton reads these functions itself; to a type checker its tensors are tuples, and numbers no constants of its.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from crosslayer.fused.gpu.normalisation_kernels import (
    block_output,
    load_coefficients,
    load_norm,
    normalised_gradient,
    through_relu,
)
from crosslayer.fused.gpu.tile_kernels import per_channel, per_image, place, store_sum
from crosslayer.fused.gpu.window_kernels import (
    add_products,
    columns_of,
    convolve,
    flipped,
    load_received,
    load_row,
    load_taps,
    masked,
    offsets_of,
    store_sums,
)
from crosslayer.fused.light_merge.kernels import load_terms, merge_row, open_window


@triton.jit
def merge_norm_sums_kernel(
    gradient, everywhere, x, shortcut, value_kernel, gate, scale, shortcut_kernel, ending, mean,
    merged, partials, height, width, channels, row_chunks, strides,
    HAS_KERNEL: tl.constexpr, ENDED: tl.constexpr, ENDING_EPSILON: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """z anew, and this program's share of Σ dout and of Σ dout · (z - μ)."""
    batch, first, channel, present = place(row_chunks, channels, ROWS, CHANNELS)
    terms = load_terms(
        value_kernel, gate, scale, shortcut_kernel, ending, batch, channels, channel, present,
        HAS_KERNEL, ENDED, ENDING_EPSILON, ACC,
    )  # fmt: skip
    centre = per_channel(mean, channel, present, ACC)
    same = per_image(everywhere, batch, channels, channel, present, ACC)[None, :]
    plain = tl.zeros([COLUMNS, CHANNELS], ACC)
    weighted = tl.zeros([COLUMNS, CHANNELS], ACC)
    for tile in range(tl.cdiv(width, COLUMNS)):
        column, inside = columns_of(tile, width, present, COLUMNS)
        offsets = offsets_of(batch, channel, column, strides)
        window = open_window(
            x + offsets, shortcut + offsets, first, height, strides, inside, terms, HAS_KERNEL, ENDED, ACC
        )
        for row in range(first, tl.minimum(first + ROWS, height)):
            z, _, window = merge_row(
                x + offsets, shortcut + offsets, row, height, strides, inside, window, terms, HAS_KERNEL, ENDED, ACC
            )
            incoming = tl.load(gradient + offsets + row * strides[2], mask=inside[1], other=0.0).to(ACC)
            incoming = tl.where(inside[1], incoming + same, 0.0)
            tl.store(merged + offsets + row * strides[2], z.to(merged.dtype.element_ty), mask=inside[1])
            plain += incoming
            weighted += incoming * (z - centre[None, :])
    store_sum(partials, 0, 2, plain, channels, channel, present)
    store_sum(partials, 1, 2, weighted, channels, channel, present)


@triton.jit
def load_gradient(
    gradient, merged, row, height, strides, inside, same, coefficients,
    BATCH_STATISTICS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A row of dz; with statistics that do not depend on z, of dout."""
    incoming = load_received(gradient, row, height, strides, inside, same, ACC)
    if BATCH_STATISTICS:
        z = load_row(merged, row, height, strides, inside, ACC)
        incoming = (
            normalised_gradient(incoming[0], z[0], coefficients),
            normalised_gradient(incoming[1], z[1], coefficients),
            normalised_gradient(incoming[2], z[2], coefficients),
        )
    return masked(incoming, row, height, inside)


@triton.jit
def merge_gradient_kernel(
    gradient, everywhere, merged, x, shortcut, value_kernel, gate, scale, shortcut_kernel, ending,
    norm, keep, weight_gradient, bias_gradient, count,
    x_gradient, shortcut_gradient, partials, height, width, channels, row_chunks, strides,
    HAS_KERNEL: tl.constexpr, ENDED: tl.constexpr, HAS_KEEP: tl.constexpr, BATCH_STATISTICS: tl.constexpr,
    EPSILON: tl.constexpr, ENDING_EPSILON: tl.constexpr, SUMS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dx and ds, and this program's share of Σ dz, Σ dz ⊙ x and Σ dz ⊙ s at all nine shifts.

    If `ENDED`, x is made anew, dx goes through its ReLU, and Σ dx and Σ dx (c - μ) are taken, of c that x is made of.
    """
    batch, first, channel, present = place(row_chunks, channels, ROWS, CHANNELS)
    alpha, beta, gamma, centre = load_coefficients(
        norm, weight_gradient, bias_gradient, count, channel, present, EPSILON, ACC
    )
    if HAS_KEEP:
        alpha *= tl.load(keep + batch).to(ACC)
    coefficients = (alpha, beta, gamma, centre)
    same = per_image(everywhere, batch, channels, channel, present, ACC)[None, :]
    taps = flipped(load_taps(value_kernel, channel, present, ACC))
    own = per_image(gate, batch, channels, channel, present, ACC)
    old = per_image(scale, batch, channels, channel, present, ACC)
    shortcut_taps = taps
    if HAS_KERNEL:
        shortcut_taps = flipped(load_taps(shortcut_kernel, channel, present, ACC))
    if not BATCH_STATISTICS:  # the window holds dout
        own *= alpha
    zero = tl.zeros([COLUMNS, CHANNELS], ACC)
    plain = zero
    value_sums = (zero, zero, zero, zero, zero, zero, zero, zero, zero)
    shortcut_sums = value_sums
    shortcut_sum = zero
    end = (old, old, old)
    if ENDED:
        end = load_norm(ending, channel, present, ENDING_EPSILON, ACC)
    end_plain = zero
    end_weighted = zero
    for tile in range(tl.cdiv(width, COLUMNS)):
        column, inside = columns_of(tile, width, present, COLUMNS)
        offsets = offsets_of(batch, channel, column, strides)
        above = load_gradient(
            gradient + offsets, merged + offsets, first - 1, height, strides, inside, same, coefficients,
            BATCH_STATISTICS, ACC,
        )  # fmt: skip
        here = load_gradient(
            gradient + offsets, merged + offsets, first, height, strides, inside, same, coefficients,
            BATCH_STATISTICS, ACC,
        )  # fmt: skip
        for row in range(first, tl.minimum(first + ROWS, height)):
            at = offsets + row * strides[2]
            below = load_gradient(
                gradient + offsets, merged + offsets, row + 1, height, strides, inside, same, coefficients,
                BATCH_STATISTICS, ACC,
            )  # fmt: skip
            s = tl.load(shortcut + at, mask=inside[1], other=0.0).to(ACC)
            value = tl.load(x + at, mask=inside[1], other=0.0).to(ACC)
            dx = tl.load(gradient + at, mask=inside[1], other=0.0).to(ACC) + same
            dx += own[None, :] * convolve(above, here, below, taps)
            if ENDED:
                deviation = value - end[0][None, :]
                value = block_output(value, s, end, inside[1], x.dtype.element_ty)
                dx = through_relu(dx, value)
                end_plain += dx
                end_weighted += dx * deviation
            tl.store(x_gradient + at, dx.to(x_gradient.dtype.element_ty), mask=inside[1])
            ds = old[None, :] * here[1]
            if HAS_KERNEL:
                ds += convolve(above, here, below, shortcut_taps)
                shortcut_sums = add_products(shortcut_sums, above, here, below, s)
            else:
                shortcut_sum += here[1] * s
            if not BATCH_STATISTICS:
                ds *= alpha[None, :]
            tl.store(shortcut_gradient + at, ds.to(shortcut_gradient.dtype.element_ty), mask=inside[1])
            value_sums = add_products(value_sums, above, here, below, value)
            plain += here[1]
            above = here
            here = below
    store_sum(partials, 0, SUMS, plain, channels, channel, present)
    store_sums(partials, 1, SUMS, value_sums, channels, channel, present)
    if HAS_KERNEL:
        store_sums(partials, 10, SUMS, shortcut_sums, channels, channel, present)
    else:
        store_sum(partials, 10, SUMS, shortcut_sum, channels, channel, present)
    if ENDED:
        store_sum(partials, SUMS - 2, SUMS, end_plain, channels, channel, present)
        store_sum(partials, SUMS - 1, SUMS, end_weighted, channels, channel, present)
