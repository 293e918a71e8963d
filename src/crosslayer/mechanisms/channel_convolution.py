import math
from typing import final

from torch import nn

from crosslayer.ops.shapes import Vector


def channel_kernel_size(channels: int) -> int:
    """ECA's rule (arXiv 1910.03151, Eq. 12, γ=2, β=1): the odd size at or above int(|(log2 c + 1) / 2|)."""
    size = int(abs((math.log2(channels) + 1) / 2))
    return size if size % 2 else size + 1


@final
class ChannelConvolution(nn.Conv1d):
    """C1D_k: a one-channel 1-D convolution along the channel axis, without bias, that keeps the length."""

    def __init__(self, channels: int, kernel: int | None = None) -> None:
        kernel = kernel or channel_kernel_size(channels)
        super().__init__(1, 1, kernel, padding=(kernel - 1) // 2, bias=False)

    def forward(self, y: Vector) -> Vector:  # pyright: ignore[reportIncompatibleMethodOverride]  # one vector in
        """Batch × channels in and out."""
        return super().forward(y.unsqueeze(1)).squeeze(1)
