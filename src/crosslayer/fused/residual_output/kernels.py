"""Triton kernels of `residual_output` and `residual_value`; see their autograd.py for the equations.

A program goes through positions × channels of one image, tile by tile.
"""

# Triton reads these functions itself; to a type checker its tensors are tuples, and numbers no constants of its.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from crosslayer.fused.gpu.normalisation_kernels import (
    add_value,
    block_output,
    load_coefficients,
    load_norm,
    normalised_gradient,
    store_moments,
    through_relu,
)
from crosslayer.fused.gpu.tile_kernels import per_image, place, store_sum, tile_at


@triton.jit
def residual_moments_kernel(
    x, partials, size, channels, chunks, strides,
    LENGTH: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Count, mean and sum of squared deviations of x in every channel of this program's positions."""
    batch, first, channel, present = place(chunks, channels, LENGTH, CHANNELS)
    zero = tl.zeros([POSITIONS, CHANNELS], ACC)
    moments = (tl.zeros([POSITIONS, 1], ACC), zero, zero)
    for start in range(first, tl.minimum(first + LENGTH, size), POSITIONS):
        offsets, there, inside = tile_at(start, batch, channel, present, size, strides, POSITIONS)
        moments = add_value(moments, tl.load(x + offsets, mask=inside, other=0.0).to(ACC), inside, there)
    store_moments(partials, moments, channels, channel, present, CHANNELS, ACC)


@triton.jit
def load_output(x, shortcut, offsets, inside, norm, ACC: tl.constexpr):
    """A tile of x, and of the output that is made of it; zero where there is no map."""
    own = tl.load(x + offsets, mask=inside, other=0.0).to(ACC)
    added = tl.load(shortcut + offsets, mask=inside, other=0.0).to(ACC)
    return own, block_output(own, added, norm, inside, x.dtype.element_ty)


@triton.jit
def residual_output_kernel(
    x, shortcut, norm, out, partials, size, channels, chunks, strides,
    EPSILON: tl.constexpr,
    LENGTH: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The output; this program's share of its sum, and of how often it is above zero and Σ (x - μ) there."""
    batch, first, channel, present = place(chunks, channels, LENGTH, CHANNELS)
    affine = load_norm(norm, channel, present, EPSILON, ACC)
    total = tl.zeros([POSITIONS, CHANNELS], ACC)
    count = total
    deviation = total
    for start in range(first, tl.minimum(first + LENGTH, size), POSITIONS):
        offsets, _, inside = tile_at(start, batch, channel, present, size, strides, POSITIONS)
        own, made = load_output(x, shortcut, offsets, inside, affine, ACC)
        tl.store(out + offsets, made.to(out.dtype.element_ty), mask=inside)
        total += made
        count += through_relu(1.0, made)
        deviation += through_relu(own - affine[0][None, :], made)
    store_sum(partials, 0, 3, total, channels, channel, present)
    store_sum(partials, 1, 3, count, channels, channel, present)
    store_sum(partials, 2, 3, deviation, channels, channel, present)


@triton.jit
def gradient_through_relu(gradient, same, offsets, inside, made, ACC: tl.constexpr):
    """g of a tile."""
    incoming = tl.load(gradient + offsets, mask=inside, other=0.0).to(ACC) + same
    return through_relu(incoming, made)


@triton.jit
def residual_norm_sums_kernel(
    gradient, everywhere, x, shortcut, norm, partials, size, channels, chunks, strides,
    EPSILON: tl.constexpr,
    LENGTH: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """This program's share of Σ g and Σ g (x - μ)."""
    batch, first, channel, present = place(chunks, channels, LENGTH, CHANNELS)
    affine = load_norm(norm, channel, present, EPSILON, ACC)
    same = per_image(everywhere, batch, channels, channel, present, ACC)[None, :]
    plain = tl.zeros([POSITIONS, CHANNELS], ACC)
    weighted = plain
    for start in range(first, tl.minimum(first + LENGTH, size), POSITIONS):
        offsets, _, inside = tile_at(start, batch, channel, present, size, strides, POSITIONS)
        own, made = load_output(x, shortcut, offsets, inside, affine, ACC)
        g = gradient_through_relu(gradient, same, offsets, inside, made, ACC)
        plain += g
        weighted += g * (own - affine[0][None, :])
    store_sum(partials, 0, 2, plain, channels, channel, present)
    store_sum(partials, 1, 2, weighted, channels, channel, present)


@triton.jit
def residual_gradients_kernel(
    gradient, everywhere, x, shortcut, known, of_shortcut_pool, norm, weight_gradient, bias_gradient, number,
    x_gradient, shortcut_gradient, size, channels, chunks, strides,
    HAS_KNOWN: tl.constexpr, HAS_POOL: tl.constexpr, EPSILON: tl.constexpr,
    LENGTH: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dx, and ds = g plus what is known of it beforehand."""
    batch, first, channel, present = place(chunks, channels, LENGTH, CHANNELS)
    affine = load_norm(norm, channel, present, EPSILON, ACC)
    coefficients = load_coefficients(norm, weight_gradient, bias_gradient, number, channel, present, EPSILON, ACC)
    same = per_image(everywhere, batch, channels, channel, present, ACC)[None, :]
    for start in range(first, tl.minimum(first + LENGTH, size), POSITIONS):
        offsets, _, inside = tile_at(start, batch, channel, present, size, strides, POSITIONS)
        own, made = load_output(x, shortcut, offsets, inside, affine, ACC)
        g = gradient_through_relu(gradient, same, offsets, inside, made, ACC)
        dx = normalised_gradient(g, own, coefficients)
        tl.store(x_gradient + offsets, dx.to(x_gradient.dtype.element_ty), mask=inside)
        if HAS_KNOWN:
            g += tl.load(known + offsets, mask=inside, other=0.0).to(ACC)
        if HAS_POOL:
            g += per_image(of_shortcut_pool, batch, channels, channel, present, ACC)[None, :]
        tl.store(shortcut_gradient + offsets, g.to(shortcut_gradient.dtype.element_ty), mask=inside)


@triton.jit
def residual_norm_gradient_kernel(
    g, x, norm, weight_gradient, bias_gradient, number, x_gradient, size, channels, chunks, strides,
    EPSILON: tl.constexpr,
    LENGTH: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dx, of a g that has been written."""
    batch, first, channel, present = place(chunks, channels, LENGTH, CHANNELS)
    coefficients = load_coefficients(norm, weight_gradient, bias_gradient, number, channel, present, EPSILON, ACC)
    for start in range(first, tl.minimum(first + LENGTH, size), POSITIONS):
        offsets, _, inside = tile_at(start, batch, channel, present, size, strides, POSITIONS)
        incoming = tl.load(g + offsets, mask=inside, other=0.0).to(ACC)
        dx = normalised_gradient(incoming, tl.load(x + offsets, mask=inside, other=0.0).to(ACC), coefficients)
        tl.store(x_gradient + offsets, dx.to(x_gradient.dtype.element_ty), mask=inside)
