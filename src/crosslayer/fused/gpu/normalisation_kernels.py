"""Batch normalisation in Triton's kernels, forward and backward, and the end of a block."""

# Triton reads these functions itself; to a type checker its tensors are tuples, and numbers no constants of its.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from crosslayer.fused.gpu.tile_kernels import per_channel


@triton.jit
def inverse_deviation(variance, channel, present, EPSILON: tl.constexpr, ACC: tl.constexpr):
    """1 / √(σ² + ε)."""
    return 1.0 / tl.sqrt(tl.load(variance + channel, mask=present, other=1.0).to(ACC) + EPSILON)


@triton.jit
def load_norm(norm, channel, present, EPSILON: tl.constexpr, ACC: tl.constexpr):
    """μ, w / √(σ² + ε) and b, from the addresses of w, b, μ and σ²."""
    slope = per_channel(norm[0], channel, present, ACC) * inverse_deviation(norm[3], channel, present, EPSILON, ACC)
    return per_channel(norm[2], channel, present, ACC), slope, per_channel(norm[1], channel, present, ACC)


@triton.jit
def normalised(x, norm):
    """w (x - μ) / √(σ² + ε) + b."""
    centre, slope, shift = norm
    return (x - centre[None, :]) * slope[None, :] + shift[None, :]


@triton.jit
def block_output(x, shortcut, norm, inside, TYPE: tl.constexpr):
    """ReLU(BN(x) + s) as a map of that type holds it, zero outside the map; what is no number stays none."""
    made = normalised(x, norm) + shortcut
    rectified = tl.where(made < 0, 0.0, made).to(TYPE).to(made.dtype)
    return tl.where(inside, rectified, 0.0)


@triton.jit
def through_relu(gradient, out):
    """The gradient where the output is above zero."""
    return tl.where(out <= 0, 0.0, gradient)


@triton.jit
def load_coefficients(
    norm, weight_gradient, bias_gradient, count, channel, present,
    EPSILON: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """α, β, γ and μ of α g - β - γ (x - μ), the gradient of what is normalised, for g that of the normalisation."""
    inverse = inverse_deviation(norm[3], channel, present, EPSILON, ACC)
    alpha = per_channel(norm[0], channel, present, ACC) * inverse
    beta = alpha * per_channel(bias_gradient, channel, present, ACC) / count
    gamma = alpha * per_channel(weight_gradient, channel, present, ACC) * inverse / count
    return alpha, beta, gamma, per_channel(norm[2], channel, present, ACC)


@triton.jit
def normalised_gradient(gradient, x, coefficients):
    """α g - β - γ (x - μ)."""
    alpha, beta, gamma, centre = coefficients
    return alpha[None, :] * gradient - beta[None, :] - gamma[None, :] * (x - centre[None, :])


@triton.jit
def add_value(moments, value, inside, there):
    """Count, mean and sum of squared deviations with one more value (Welford's update), where it is inside."""
    count, mean, deviation = moments
    count += there.to(count.dtype)
    change = tl.where(inside, value - mean, 0.0)
    mean += change / tl.maximum(count, 1.0)
    return count, mean, deviation + change * (value - mean)


@triton.jit
def store_moments(partials, moments, channels, channel, present, CHANNELS: tl.constexpr, ACC: tl.constexpr):
    """Those of the whole tile, each in a plane of programs × channels."""
    count, mean, deviation = moments
    total = tl.sum(count, axis=0)
    centre = tl.sum(count * mean, axis=0) / total
    deviation += count * (mean - centre[None, :]) * (mean - centre[None, :])
    start = partials + tl.program_id(0).to(tl.int64) * channels + channel
    step = tl.num_programs(0).to(tl.int64) * channels
    tl.store(start, total + tl.zeros([CHANNELS], ACC), mask=present)
    tl.store(start + step, centre, mask=present)
    tl.store(start + 2 * step, tl.sum(deviation, axis=0), mask=present)
