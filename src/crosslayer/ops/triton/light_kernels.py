"""What the kernels of `light_merge_norm` share, and its forward kernels.

A program holds columns × channels of some rows of one image. It walks down the rows with the three rows of its 3×3
window in registers, so that each row is fetched once; the two neighbouring columns come from the cache.
"""

# Triton reads these functions itself; to a type checker its static_range is no iterator, its tensors are tuples.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import triton
import triton.language as tl


@triton.jit
def place(row_chunks, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Image, first row and channels of this program."""
    batch = (tl.program_id(0) // row_chunks).to(tl.int64)
    first_row = tl.program_id(0) % row_chunks * ROWS
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return batch, first_row, channel, channel < channels


@triton.jit
def columns_of(tile, width, present, COLUMNS: tl.constexpr):
    """The tile's columns and, for the columns to the left, at, and to the right of them, what is inside the map."""
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    left = ((column > 0) & (column <= width))[:, None] & present[None, :]
    centre = (column < width)[:, None] & present[None, :]
    right = (column + 1 < width)[:, None] & present[None, :]
    return column, (left, centre, right)


@triton.jit
def offsets_of(batch, channel, column, strides):
    """Where the tile's first row begins in a map."""
    return batch * strides[0] + channel[None, :] * strides[1] + column[:, None] * strides[3]


@triton.jit
def is_row(row, height):
    """Whether the map has such a row; as a tensor, also where the interpreter counts rows in plain integers."""
    row = tl.full([1, 1], 0, tl.int32) + row
    return (row >= 0) & (row < height)


@triton.jit
def load_row(tile, row, height, strides, inside, ACC: tl.constexpr):
    """A row at the tile's columns and at their left and right neighbours, zero outside the map."""
    there = is_row(row, height)
    start = tile + row * strides[2]
    return (
        tl.load(start - strides[3], mask=inside[0] & there, other=0.0).to(ACC),
        tl.load(start, mask=inside[1] & there, other=0.0).to(ACC),
        tl.load(start + strides[3], mask=inside[2] & there, other=0.0).to(ACC),
    )


@triton.jit
def load_taps(kernel, channel, present, ACC: tl.constexpr):
    """The nine taps of every channel's 3×3 kernel, row by row."""
    start = kernel + channel * 9
    return (
        tl.load(start, mask=present, other=0.0).to(ACC),
        tl.load(start + 1, mask=present, other=0.0).to(ACC),
        tl.load(start + 2, mask=present, other=0.0).to(ACC),
        tl.load(start + 3, mask=present, other=0.0).to(ACC),
        tl.load(start + 4, mask=present, other=0.0).to(ACC),
        tl.load(start + 5, mask=present, other=0.0).to(ACC),
        tl.load(start + 6, mask=present, other=0.0).to(ACC),
        tl.load(start + 7, mask=present, other=0.0).to(ACC),
        tl.load(start + 8, mask=present, other=0.0).to(ACC),
    )


@triton.jit
def weigh(row, a, b, c):
    """One row of the window times one row of the kernel."""
    return a[None, :] * row[0] + b[None, :] * row[1] + c[None, :] * row[2]


@triton.jit
def convolve(above, here, below, taps):
    """The depth-wise convolution at the middle of the window."""
    return (
        weigh(above, taps[0], taps[1], taps[2])
        + weigh(here, taps[3], taps[4], taps[5])
        + weigh(below, taps[6], taps[7], taps[8])
    )


@triton.jit
def per_image(vector, batch, channels, channel, present, ACC: tl.constexpr):
    """One image's row of a batch × channels matrix."""
    return tl.load(vector + batch * channels + channel, mask=present, other=0.0).to(ACC)


@triton.jit
def per_channel(vector, channel, present, ACC: tl.constexpr):
    """A vector's channels."""
    return tl.load(vector + channel, mask=present, other=0.0).to(ACC)


@triton.jit
def inverse_deviation(variance, channel, present, epsilon, ACC: tl.constexpr):
    """1 / √(σ² + ε)."""
    return 1.0 / tl.sqrt(tl.load(variance + channel, mask=present, other=1.0).to(ACC) + epsilon)


@triton.jit
def load_terms(
    value_kernel, gate, scale, shortcut_kernel, batch, channels, channel, present,
    HAS_KERNEL: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What z is made with besides the maps: K, K_s, G and a."""
    taps = load_taps(value_kernel, channel, present, ACC)
    shortcut_taps = taps
    if HAS_KERNEL:
        shortcut_taps = load_taps(shortcut_kernel, channel, present, ACC)
    own = per_image(gate, batch, channels, channel, present, ACC)
    return taps, shortcut_taps, own, per_image(scale, batch, channels, channel, present, ACC)


@triton.jit
def open_window(x, shortcut, row, height, strides, inside, HAS_KERNEL: tl.constexpr, ACC: tl.constexpr):
    """The rows above `row` and at it, of x and of the shortcut."""
    above = load_row(x, row - 1, height, strides, inside, ACC)
    here = load_row(x, row, height, strides, inside, ACC)
    if HAS_KERNEL:
        s_above = load_row(shortcut, row - 1, height, strides, inside, ACC)
        s_here = load_row(shortcut, row, height, strides, inside, ACC)
    else:
        s_above = above
        s_here = here
    return above, here, s_above, s_here


@triton.jit
def merge_row(x, shortcut, row, height, strides, inside, window, terms, HAS_KERNEL: tl.constexpr, ACC: tl.constexpr):
    """z = G ⊙ DW(x; K) + a ⊙ s + DW(s; K_s) at `row`, x there, and the window one row on."""
    above, here, s_above, s_here = window
    taps, shortcut_taps, own, old = terms
    below = load_row(x, row + 1, height, strides, inside, ACC)
    z = own[None, :] * convolve(above, here, below, taps)
    if HAS_KERNEL:
        s_below = load_row(shortcut, row + 1, height, strides, inside, ACC)
        z += old[None, :] * s_here[1] + convolve(s_above, s_here, s_below, shortcut_taps)
    else:
        s_below = below
        z += old[None, :] * tl.load(shortcut + row * strides[2], mask=inside[1], other=0.0).to(ACC)
    return z, here[1], (here, below, s_here, s_below)


@triton.jit
def statistics_kernel(
    x, shortcut, value_kernel, gate, scale, shortcut_kernel, partials, height, width, channels, row_chunks, strides,
    HAS_KERNEL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Count, mean and sum of squared deviations of z in every channel of this program's rows (Welford's update)."""
    batch, first, channel, present = place(row_chunks, channels, ROWS, CHANNELS)
    terms = load_terms(value_kernel, gate, scale, shortcut_kernel, batch, channels, channel, present, HAS_KERNEL, ACC)
    count = tl.zeros([COLUMNS, 1], ACC)
    mean = tl.zeros([COLUMNS, CHANNELS], ACC)
    deviation = tl.zeros([COLUMNS, CHANNELS], ACC)
    for tile in range(tl.cdiv(width, COLUMNS)):
        column, inside = columns_of(tile, width, present, COLUMNS)
        offsets = offsets_of(batch, channel, column, strides)
        window = open_window(x + offsets, shortcut + offsets, first, height, strides, inside, HAS_KERNEL, ACC)
        for row in range(first, tl.minimum(first + ROWS, height)):
            z, _, window = merge_row(
                x + offsets, shortcut + offsets, row, height, strides, inside, window, terms, HAS_KERNEL, ACC
            )
            count += (column < width)[:, None].to(ACC)
            change = tl.where(inside[1], z - mean, 0.0)
            mean += change / tl.maximum(count, 1.0)
            deviation += change * (z - mean)
    total = tl.sum(count, axis=0)
    centre = tl.sum(count * mean, axis=0) / total
    deviation += count * (mean - centre[None, :]) * (mean - centre[None, :])
    start = partials + tl.program_id(0).to(tl.int64) * channels + channel
    step = tl.num_programs(0).to(tl.int64) * channels
    tl.store(start, total + tl.zeros([CHANNELS], ACC), mask=present)
    tl.store(start + step, centre, mask=present)
    tl.store(start + 2 * step, tl.sum(deviation, axis=0), mask=present)


@triton.jit
def normalise_kernel(
    x, shortcut, value_kernel, gate, scale, shortcut_kernel, weight, bias, mean, variance, keep, out, epsilon,
    height, width, channels, row_chunks, strides,
    HAS_KERNEL: tl.constexpr, HAS_KEEP: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """out = x + keep · (w · (z - μ) / √(σ² + ε) + b): x and s read once, out written once."""
    batch, first, channel, present = place(row_chunks, channels, ROWS, CHANNELS)
    terms = load_terms(value_kernel, gate, scale, shortcut_kernel, batch, channels, channel, present, HAS_KERNEL, ACC)
    slope = per_channel(weight, channel, present, ACC) * inverse_deviation(variance, channel, present, epsilon, ACC)
    shift = per_channel(bias, channel, present, ACC)
    centre = per_channel(mean, channel, present, ACC)
    if HAS_KEEP:
        kept = tl.load(keep + batch).to(ACC)
        slope *= kept
        shift *= kept
    for tile in range(tl.cdiv(width, COLUMNS)):
        column, inside = columns_of(tile, width, present, COLUMNS)
        offsets = offsets_of(batch, channel, column, strides)
        window = open_window(x + offsets, shortcut + offsets, first, height, strides, inside, HAS_KERNEL, ACC)
        for row in range(first, tl.minimum(first + ROWS, height)):
            z, here, window = merge_row(
                x + offsets, shortcut + offsets, row, height, strides, inside, window, terms, HAS_KERNEL, ACC
            )
            made = here + (z - centre[None, :]) * slope[None, :] + shift[None, :]
            tl.store(out + offsets + row * strides[2], made.to(out.dtype.element_ty), mask=inside[1])
