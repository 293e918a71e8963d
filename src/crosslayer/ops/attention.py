"""What attention over tokens is made of: scores of queries and keys."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from crosslayer.ops.shapes import Heads


def attention_scores(q: Heads, k: Heads) -> Float[Tensor, "batch heads tokens tokens"]:
    """Q Kᵀ / √d."""
    return (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)


def depth_scores(q: Heads, keys: Sequence[Heads]) -> Float[Tensor, "batch heads tokens layers"]:
    """q_p · k_p / √d of every token's query and its own key in each layer."""
    scaled = q * q.shape[-1] ** -0.5
    return torch.stack([(scaled * k).sum(3) for k in keys], dim=3)
