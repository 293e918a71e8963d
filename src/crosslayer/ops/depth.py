"""What mechanisms along depth are made of: inner products with a normalised map, a softmax over sources, a sum."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crosslayer.ops.shapes import Map, PositionWeight


def inverse_rms(x: Map, eps: float) -> PositionWeight:
    """1 / sqrt(mean_c x² + ε) at every position, in single precision at least: squares overflow in half."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.rsqrt(wide.square().mean(1, keepdim=True) + eps)


def rms_projection(
    x: Map, rows: Float[Tensor, "rows channels"], eps: float
) -> Float[Tensor, "batch rows height width"]:
    """r · RMS(x) at every position, for every row r: one 1×1 convolution of the map as it is, then one scale.

    The convolution is of r/√c, so that by Cauchy and Schwarz it is no larger than ‖r‖ times the map's RMS: in half
    precision a sum over many large channels would overflow before it is scaled.
    """
    root = x.shape[1] ** 0.5
    return pointwise(x, rows / root) * (root * inverse_rms(x, eps))


def pointwise(x: Map, matrix: Float[Tensor, "rows channels"]) -> Float[Tensor, "batch rows height width"]:
    """A matrix at every position, in the map's precision: a 1×1 convolution."""
    return F.conv2d(x, matrix.to(x.dtype)[..., None, None])


def rms_product(query: Map, weight: Float[Tensor, " channels"], x: Map, eps: float) -> PositionWeight:
    """q(p) · (w ⊙ RMS(x(p))), where every position has a query of its own."""
    root = x.shape[1] ** 0.5
    products = (query * (weight / root).to(query.dtype)[:, None, None] * x).sum(1, keepdim=True)
    return products * (root * inverse_rms(x, eps))


def softmax_over_depth(logits: Sequence[PositionWeight]) -> list[PositionWeight]:
    """A weight for every source and position; over the sources they sum to one."""
    return rows(torch.softmax(torch.stack(tuple(logits)), dim=0), len(logits))


def weighted_sum(weights: Sequence[Tensor], maps: Sequence[Map]) -> Map:
    """Σ_i w_i ⊙ x_i, each weight a number or a number per position; in the maps' precision."""
    first, *rest = (weight.to(x.dtype) * x for weight, x in zip(weights, maps, strict=True))
    return sum(rest, start=first)


def rows(x: Tensor, count: int) -> list[Tensor]:
    """x_0 … x_{count - 1}, by their index: a tensor that is only traced cannot be gone through."""
    return [x[i] for i in range(count)]
