"""Where a program of Triton's kernels works: its tile of a map, its rows of vectors, and its row of sums."""

# Triton reads these functions itself; to a type checker its tensors are tuples, and numbers no constants of its.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit
def place(chunks, channels, LENGTH: tl.constexpr, CHANNELS: tl.constexpr):
    """Image, first row (or position) and channels of this program."""
    batch = (tl.program_id(0) // chunks).to(tl.int64)
    first = tl.program_id(0) % chunks * LENGTH
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return batch, first, channel, channel < channels


@triton.jit
def tile_at(start, batch, channel, present, size, strides, POSITIONS: tl.constexpr):
    """A tile's offsets in a map, which of its positions there are, and what of it is inside."""
    position = start + tl.arange(0, POSITIONS)
    offsets = batch * strides[0] + channel[None, :] * strides[1] + position[:, None] * strides[2]
    there = (position < size)[:, None]
    return offsets, there, there & present[None, :]


@triton.jit
def per_image(vector, batch, channels, channel, present, ACC: tl.constexpr):
    """One image's row of a batch × channels matrix."""
    return tl.load(vector + batch * channels + channel, mask=present, other=0.0).to(ACC)


@triton.jit
def per_channel(vector, channel, present, ACC: tl.constexpr):
    """A vector's channels."""
    return tl.load(vector + channel, mask=present, other=0.0).to(ACC)


@triton.jit
def store_sum(partials, i, COUNT: tl.constexpr, sums, channels, channel, present):
    """A tile's sum as the i-th of this program's rows."""
    start = partials + (tl.program_id(0).to(tl.int64) * COUNT + i) * channels + channel
    tl.store(start, tl.sum(sums, axis=0), mask=present)
