"""How maps lie in memory, and what they are computed in."""

import torch
from torch import Tensor


def channels_last(x: Tensor) -> bool:
    """Whether a map's channels lie side by side (and it is not the same in both layouts)."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def layout_of(x: Tensor) -> torch.memory_format:
    """The layout a new map like x gets."""
    return torch.channels_last if channels_last(x) else torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """x itself where it fills its memory in one of the two layouts, else a copy that does."""
    return x if channels_last(x) else x.contiguous()


def alike(map_: Tensor, x: Tensor) -> Tensor:
    """A map laid out as x; copies only what lies otherwise."""
    return map_.contiguous(memory_format=layout_of(x))


def laid_out_as(gradient: Tensor, kernel: Tensor) -> Tensor:
    """A kernel's gradient with the kernel's own strides, as data-parallel training wants it."""
    return gradient if gradient.stride() == kernel.stride() else torch.empty_like(kernel).copy_(gradient)


def count_of(x: Tensor) -> int:
    """How many values a channel has in a batch of maps."""
    return x.shape[0] * x.shape[2] * x.shape[3]


def new_map(x: Tensor) -> Tensor:
    """Memory for a map like x."""
    return torch.empty_like(x, memory_format=layout_of(x))


def accumulator(x: Tensor) -> torch.dtype:
    """What kernels compute in: float32, or float64 for float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def exact(small: Tensor, x: Tensor) -> Tensor:
    """Number beside number, in the precision of the arithmetic on maps like x; copies only what is otherwise."""
    dtype = accumulator(x)
    if small.dtype == dtype and small.is_contiguous():
        return small  # the rule, and two calls less for each of an op's many small tensors
    return small.to(dtype).contiguous()


def taps_of(kernel: Tensor) -> Tensor:
    """A depth-wise kernel as taps × channels."""
    return kernel.flatten(1).T


def kernel_of(taps: Tensor) -> Tensor:
    """The inverse."""
    side = 3 if taps.shape[0] == 9 else 1
    return taps.T.reshape(-1, 1, side, side)
