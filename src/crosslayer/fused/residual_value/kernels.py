"""Triton kernels of `residual_value`; see their autograd.py for the equations."""

# Triton reads these functions itself; to a type checker its tensors are tuples, and numbers no constants of its.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from crosslayer.fused.gpu.normalisation_kernels import block_output, load_norm, through_relu
from crosslayer.fused.gpu.tile_kernels import per_image, place, store_sum
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
    g, partials, height, width, channels, row_chunks, strides,
    EPSILON: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The output's whole gradient through its ReLU, with DWᵀ(dV; K) in it: g.

    And this program's share of Σ dV ⊙ out at all nine shifts, of Σ g and of Σ g (x - μ); out is made anew.
    """
    batch, first, channel, present = place(row_chunks, channels, ROWS, CHANNELS)
    taps = flipped(load_taps(kernel, channel, present, ACC))
    end = load_norm(norm, channel, present, EPSILON, ACC)
    same = per_image(everywhere, batch, channels, channel, present, ACC)[None, :]
    same_of_output = per_image(everywhere_of_output, batch, channels, channel, present, ACC)[None, :]
    zero = tl.zeros([COLUMNS, CHANNELS], ACC)
    sums = (zero, zero, zero, zero, zero, zero, zero, zero, zero)
    plain = zero
    weighted = zero
    for tile in range(tl.cdiv(width, COLUMNS)):
        column, inside = columns_of(tile, width, present, COLUMNS)
        offsets = offsets_of(batch, channel, column, strides)
        dv = gradient + offsets
        above = masked(load_received(dv, first - 1, height, strides, inside, same, ACC), first - 1, height, inside)
        here = masked(load_received(dv, first, height, strides, inside, same, ACC), first, height, inside)
        for row in range(first, tl.minimum(first + ROWS, height)):
            at = offsets + row * strides[2]
            below = masked(load_received(dv, row + 1, height, strides, inside, same, ACC), row + 1, height, inside)
            own = tl.load(x + at, mask=inside[1], other=0.0).to(ACC)
            deviation = own - end[0][None, :]
            s = tl.load(shortcut + at, mask=inside[1], other=0.0).to(ACC)
            out = block_output(own, s, end, inside[1], x.dtype.element_ty)
            dx = convolve(above, here, below, taps)
            dx += tl.load(of_output + at, mask=inside[1], other=0.0).to(ACC) + same_of_output
            dx = through_relu(dx, out)
            plain += dx
            weighted += dx * deviation
            tl.store(g + at, dx.to(g.dtype.element_ty), mask=inside[1])
            sums = add_products(sums, above, here, below, out)
            above = here
            here = below
    store_sums(partials, 0, 11, sums, channels, channel, present)
    store_sum(partials, 9, 11, plain, channels, channel, present)
    store_sum(partials, 10, 11, weighted, channels, channel, present)
