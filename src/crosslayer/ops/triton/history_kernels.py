"""Triton kernels of `history_sum`: one program holds positions × channels of one image, for all stored layers."""

# Triton reads these functions itself; to a type checker its static_range is no iterator, its tensors are tuples.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import triton
import triton.language as tl


@triton.jit
def tile_offsets(
    size, channels, tiles, stride_channel, stride_position, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr
):
    """A tile's channels and offsets inside its image, and what of both is there."""
    position = tl.program_id(0) % tiles * POSITIONS + tl.arange(0, POSITIONS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    offsets = position[:, None] * stride_position + channel[None, :] * stride_channel
    return channel, offsets, (position < size)[:, None] & (channel < channels)[None, :]


@triton.jit
def forward_kernel(
    out, values, factors, size, channels, tiles, stride_batch, stride_channel, stride_position,
    LAYERS: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Σ_m f_m ⊙ V_m: every V_m read once, the sum written once."""
    channel, offsets, inside = tile_offsets(size, channels, tiles, stride_channel, stride_position, POSITIONS, CHANNELS)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    start = batch * stride_batch
    total = tl.zeros([POSITIONS, CHANNELS], ACC)
    for m in tl.static_range(LAYERS):
        row = factors + (batch * LAYERS + m) * channels
        factor = tl.load(row + channel, mask=channel < channels, other=0.0).to(ACC)
        total += factor[None, :] * tl.load(values[m] + start + offsets, mask=inside, other=0.0).to(ACC)
    tl.store(out + start + offsets, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    gradient, values, partials,
    size, channels, tiles, stride_batch, stride_channel, stride_position,
    LAYERS: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """This tile's share of df_m = Σ dout · V_m: dout and every V_m read once."""
    channel, offsets, inside = tile_offsets(size, channels, tiles, stride_channel, stride_position, POSITIONS, CHANNELS)
    start = (tl.program_id(0) // tiles).to(tl.int64) * stride_batch
    present = channel < channels
    incoming = tl.load(gradient + start + offsets, mask=inside, other=0.0).to(ACC)
    for m in tl.static_range(LAYERS):
        value = tl.load(values[m] + start + offsets, mask=inside, other=0.0).to(ACC)
        share = (tl.program_id(0).to(tl.int64) * LAYERS + m) * channels
        tl.store(partials + share + channel, tl.sum(incoming * value, axis=0), mask=present)
