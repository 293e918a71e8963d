"""Triton kernels of `history_sum`: one program holds positions × channels of one image, for all stored layers."""

# Triton reads these functions itself; to a type checker its static_range is no iterator, its tensors are tuples.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from crosslayer.fused.gpu.tile_kernels import per_image, place, store_sum, tile_at


@triton.jit
def forward_kernel(
    out, values, factors, beginning, size, channels, chunks, strides,
    LAYERS: tl.constexpr, HAS_START: tl.constexpr,
    LENGTH: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Σ_m f_m ⊙ V_m, plus what it begins with: every V_m read once, the sum written once."""
    batch, first, channel, present = place(chunks, channels, LENGTH, CHANNELS)
    offsets, _, inside = tile_at(first, batch, channel, present, size, strides, POSITIONS)
    total = tl.zeros([POSITIONS, CHANNELS], ACC)
    if HAS_START:
        total += per_image(beginning, batch, channels, channel, present, ACC)[None, :]
    for m in tl.static_range(LAYERS):
        factor = per_image(factors, batch * LAYERS + m, channels, channel, present, ACC)
        total += factor[None, :] * tl.load(values[m] + offsets, mask=inside, other=0.0).to(ACC)
    tl.store(out + offsets, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    gradient, values, partials, size, channels, chunks, strides,
    LAYERS: tl.constexpr,
    LENGTH: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """This tile's share of df_m = Σ dout · V_m: dout and every V_m read once."""
    batch, first, channel, present = place(chunks, channels, LENGTH, CHANNELS)
    offsets, _, inside = tile_at(first, batch, channel, present, size, strides, POSITIONS)
    incoming = tl.load(gradient + offsets, mask=inside, other=0.0).to(ACC)
    for m in tl.static_range(LAYERS):
        value = tl.load(values[m] + offsets, mask=inside, other=0.0).to(ACC)
        store_sum(partials, m, LAYERS, incoming * value, channels, channel, present)
