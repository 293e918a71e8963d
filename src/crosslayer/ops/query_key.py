"""Query and key of layer attention: channel-wise 1-D convolutions of a pooled map."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crosslayer.ops.shapes import Vector

ChannelKernel = Float[Tensor, "1 1 window"]


def query_key(pooled: Vector, query: ChannelKernel, key: ChannelKernel) -> tuple[Vector, Vector]:
    """C1D(y) and C1D'(y), together.

    For so few numbers a convolution costs more to call than to do: sums over windows compile into what is around.
    """
    kernels = torch.cat([query, key])
    size = kernels.shape[2]
    windows = F.pad(pooled, (size // 2, size // 2)).unfold(1, size, 1).unsqueeze(1)
    of_query, of_key = (windows * kernels).sum(3).unbind(1)
    return of_query, of_key
