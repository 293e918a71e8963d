"""The value of the B forms: a depth-wise 3×3 convolution of a block's output, and the pool of what it makes."""

import torch
import torch.nn.functional as F

from crosslayer.ops.fused import value_map as fused
from crosslayer.ops.light_merge_norm import obstacle
from crosslayer.ops.pooling import KnownPool
from crosslayer.ops.selection import takes_fused
from crosslayer.ops.shapes import Kernel, Map


def value_map(x: Map, kernel: Kernel) -> KnownPool:
    """V = DW(x; K) with zeros around x, and V's global average pool where that costs nothing.

    What a convolution would convert first, or refuse to, is left to PyTorch.

    Raises:
        ValueError: fused was asked for where it cannot run.
    """
    if takes_fused("value_map", x, obstacle(kernel)) and convolved_as_it_is(x, kernel):
        return KnownPool(*fused.value_map(x, kernel))
    return reference(x, kernel)


def reference(x: Map, kernel: Kernel) -> KnownPool:
    """In plain PyTorch."""
    rows, columns = kernel.shape[2:]
    return KnownPool(F.conv2d(x, kernel, padding=(rows // 2, columns // 2), groups=x.shape[1]))


def convolved_as_it_is(x: Map, kernel: Kernel) -> bool:
    """Whether a convolution leaves x in its dtype; the kernel may be converted, as it is in the passes."""
    return convolution_dtype(x) == convolution_dtype(kernel) == x.dtype


def convolution_dtype(x: torch.Tensor) -> torch.dtype:
    """What a convolution takes a tensor as: autocast has its say in all but float64."""
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(x.device.type):
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)
