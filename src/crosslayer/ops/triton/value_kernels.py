"""Triton kernels of `value_map`, and of `residual_value` backward; see these in ops/fused for the equations."""

# Triton reads these functions itself; to a type checker its tensors are tuples, and numbers no constants of its.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from crosslayer.ops.triton.normalisation_kernels import block_output, load_norm, through_relu
from crosslayer.ops.triton.tile_kernels import per_image, place, store_sum
from crosslayer.ops.triton.window_kernels import (
    add_products,
    columns_of,
    convolve,
    flipped,
    load_received,
    load_row,
    load_taps,
    offsets_of,
    store_sums,
)


@triton.jit
def value_kernel(
    x, kernel, value, partials, height, width, channels, row_chunks, strides,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """V = DW(x; K), and this program's share of its sum."""
    batch, first, channel, present = place(row_chunks, channels, ROWS, CHANNELS)
    taps = load_taps(kernel, channel, present, ACC)
    total = tl.zeros([COLUMNS, CHANNELS], ACC)
    for tile in range(tl.cdiv(width, COLUMNS)):
        column, inside = columns_of(tile, width, present, COLUMNS)
        offsets = offsets_of(batch, channel, column, strides)
        above = load_row(x + offsets, first - 1, height, strides, inside, ACC)
        here = load_row(x + offsets, first, height, strides, inside, ACC)
        for row in range(first, tl.minimum(first + ROWS, height)):
            below = load_row(x + offsets, row + 1, height, strides, inside, ACC)
            made = convolve(above, here, below, taps)
            tl.store(value + offsets + row * strides[2], made.to(value.dtype.element_ty), mask=inside[1])
            total += tl.where(inside[1], made, 0.0)
            above = here
            here = below
    store_sum(partials, 0, 1, total, channels, channel, present)


@triton.jit
def value_gradient_kernel(
    gradient, everywhere, x, kernel, of_output, everywhere_of_output, shortcut, norm,
    x_gradient, partials, height, width, channels, row_chunks, strides,
    ENDED: tl.constexpr, EPSILON: tl.constexpr, SUMS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """DWᵀ(dV; K), and this program's share of Σ dV ⊙ x at all nine shifts.

    If `ENDED`, x is what a block's end makes its output of. Then the output is made anew and stands for x, its own
    gradient is added, all goes through its ReLU, and Σ g and Σ g (x - μ) of that are taken.
    """
    batch, first, channel, present = place(row_chunks, channels, ROWS, CHANNELS)
    taps = flipped(load_taps(kernel, channel, present, ACC))
    same = per_image(everywhere, batch, channels, channel, present, ACC)[None, :]
    zero = tl.zeros([COLUMNS, CHANNELS], ACC)
    sums = (zero, zero, zero, zero, zero, zero, zero, zero, zero)
    plain = zero
    weighted = zero
    if ENDED:
        end = load_norm(norm, channel, present, EPSILON, ACC)
        same_of_output = per_image(everywhere_of_output, batch, channels, channel, present, ACC)[None, :]
    else:
        end = ()
        same_of_output = same
    for tile in range(tl.cdiv(width, COLUMNS)):
        column, inside = columns_of(tile, width, present, COLUMNS)
        offsets = offsets_of(batch, channel, column, strides)
        dv = gradient + offsets
        above = load_received(dv, first - 1, height, strides, inside, same, ACC)
        here = load_received(dv, first, height, strides, inside, same, ACC)
        for row in range(first, tl.minimum(first + ROWS, height)):
            at = offsets + row * strides[2]
            below = load_received(dv, row + 1, height, strides, inside, same, ACC)
            own = tl.load(x + at, mask=inside[1], other=0.0).to(ACC)
            dx = convolve(above, here, below, taps)
            if ENDED:
                deviation = own - end[0][None, :]
                s = tl.load(shortcut + at, mask=inside[1], other=0.0).to(ACC)
                own = tl.where(inside[1], block_output(own, s, end, x.dtype.element_ty), 0.0)
                dx += tl.load(of_output + at, mask=inside[1], other=0.0).to(ACC) + same_of_output
                dx = tl.where(inside[1], through_relu(dx, own), 0.0)
                plain += dx
                weighted += dx * deviation
            tl.store(x_gradient + at, dx.to(x_gradient.dtype.element_ty), mask=inside[1])
            sums = add_products(sums, above, here, below, own)
            above = here
            here = below
    store_sums(partials, 0, SUMS, sums, channels, channel, present)
    if ENDED:
        store_sum(partials, 9, SUMS, plain, channels, channel, present)
        store_sum(partials, 10, SUMS, weighted, channels, channel, present)
