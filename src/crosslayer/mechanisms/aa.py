"""AA, attention augmented convolution: arXiv 1904.09925, Eq. 1-5.

In place of a block's 3×3 convolution to c channels:

    [ Conv3×3(x),  W_O MHSA(x) ]                       c - d_v and d_v channels
    logits_ij = q_i · (k_j + r^H_{y_j - y_i} + r^W_{x_j - x_i}) / √(d_k/N_h)          of every head

N_h = 8 heads, d_k = κc and d_v = υc channels of keys and values with κ = 2υ = 0.2, at least 20 of the former per head,
in the last three stages. The relative embeddings r are shared by the heads. Where the convolution has a stride, the
attention sees its input after a 3×3 average pooling of that stride.

How it is computed: q_i · r^H_{y_j - y_i} depends on j by its row only. So the logits are one product of longer
vectors, [q_i, (q_i · r^H_{y - y_i})_y, (q_i · r^W_{x - x_i})_x] of a query and [k_j, one-hot(y_j), one-hot(x_j)] of a
key, and no table of all pairs of positions is made.

Deviations from the paper: maps may have any size. The embeddings are those of the map that the stage has for images of
a reference size, and are interpolated along the offset for other maps, so that the farthest offset stays the farthest.
d_k/N_h and d_v/N_h are rounded to whole numbers, to at least 1, and narrow
convolutions have fewer heads. The projections of queries, keys and values have no
biases. The authors published the layer, not their networks.
"""

import dataclasses
import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crosslayer.mechanisms.interface import Mechanism, StageShape
from crosslayer.mechanisms.layers import acts_in, check_stages
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.ops.shapes import InputMap, Map


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of AA.

    Args:
        heads: N_h; a convolution to fewer than 4 N_h channels has a head for every four.
        key_ratio: κ, channels of the keys by channels of the convolution.
        value_ratio: υ, channels of the values, likewise.
        least_key_channels: what a head's keys have at least.
        image_size: reference size, in pixels (absent: 32 in networks for small images, otherwise 224).
        stages: stages it acts in, from 0; where the network ends before the first of them, its last.
    """

    heads: int = 8
    key_ratio: float = 0.2
    value_ratio: float = 0.1
    least_key_channels: int = 20
    image_size: int | None = None
    stages: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        check_stages(self.stages)
        for name in ("heads", "least_key_channels", "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.key_ratio < 0:
            raise ValueError(f"key_ratio is {self.key_ratio}; it must not be negative")
        if not 0 < self.value_ratio < 1:
            raise ValueError(f"value_ratio is {self.value_ratio}; the convolution keeps the rest: it is in (0, 1)")


def resized(embeddings: Float[Tensor, "offsets width"], size: int) -> Float[Tensor, "_ width"]:
    """Embeddings of the offsets -(size - 1) … size - 1, from those of another size."""
    if size == 1:
        return embeddings[len(embeddings) // 2, None]
    if len(embeddings) == 2 * size - 1:
        return embeddings
    table = F.interpolate(embeddings.T.unsqueeze(0), 2 * size - 1, mode="linear", align_corners=True)
    return table.squeeze(0).T


def by_place(embeddings: Float[Tensor, "offsets width"]) -> Float[Tensor, "size size width"]:
    """Element (i, j) is the embedding of the offset j - i."""
    size = (len(embeddings) + 1) // 2
    place = torch.arange(size, device=embeddings.device)
    return embeddings[place - place[:, None] + size - 1]


def relative_attention(
    query: Float[Tensor, "batch heads height width keys"],
    key: Float[Tensor, "batch heads height width keys"],
    value: Float[Tensor, "batch heads height width values"],
    of_rows: Float[Tensor, "height height keys"],
    of_columns: Float[Tensor, "width width keys"],
) -> Float[Tensor, "batch heads height width values"]:
    """Softmax of q_i · (k_j + r^H + r^W) / √keys over all places j, times their values."""
    _, _, height, width, keys = key.shape
    to_rows = torch.einsum("bnhwd,hyd->bnhwy", query, of_rows)
    to_columns = torch.einsum("bnhwd,wxd->bnhwx", query, of_columns)
    rows = torch.eye(height, device=key.device, dtype=key.dtype)[:, None].expand(*key.shape[:4], height)
    columns = torch.eye(width, device=key.device, dtype=key.dtype).expand(*key.shape[:4], width)
    queries = torch.cat([query, to_rows, to_columns], dim=-1).flatten(2, 3)
    longer_keys = torch.cat([key, rows, columns], dim=-1).flatten(2, 3)
    seen = F.scaled_dot_product_attention(queries, longer_keys, value.flatten(2, 3), scale=keys**-0.5)
    return seen.unflatten(2, (height, width))


@final
class AugmentedConvolution(nn.Module):
    """A 3×3 convolution that self-attention over the whole map gives some of its channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, reference: int, config: Config) -> None:
        super().__init__()
        self.heads = max(1, min(config.heads, out_channels // 4))
        self.keys = max(config.least_key_channels, round(config.key_ratio * out_channels / self.heads))
        self.values = max(1, round(config.value_ratio * out_channels / self.heads))
        taken = self.heads * self.values
        if taken >= out_channels:
            raise ValueError(
                f"value_ratio is {config.value_ratio}; it leaves a convolution to {out_channels} channels none of them"
            )
        self.conv = nn.Conv2d(in_channels, out_channels - taken, 3, stride, 1, bias=False)
        self.pool = nn.AvgPool2d(3, stride, 1, count_include_pad=False) if stride > 1 else nn.Identity()
        self.project = nn.Conv2d(in_channels, self.heads * (2 * self.keys + self.values), 1, bias=False)
        self.combine = nn.Conv2d(taken, taken, 1, bias=False)
        self.row_offsets = nn.Parameter(torch.randn(2 * reference - 1, self.keys) / math.sqrt(self.keys))
        self.column_offsets = nn.Parameter(torch.randn(2 * reference - 1, self.keys) / math.sqrt(self.keys))

    def forward(self, x: InputMap) -> Map:
        """Eq. 5: the convolution's channels, then the attention's."""
        return torch.cat([self.conv(x), self.combine(self.attended(self.pool(x)))], dim=1)

    def attended(self, x: InputMap) -> Map:
        """Eq. 1-4: all heads' values, side by side."""
        heads = self.project(x).unflatten(1, (self.heads, -1)).permute(0, 1, 3, 4, 2)
        query, key, value = heads.split([self.keys, self.keys, self.values], dim=-1)
        of_rows = by_place(resized(self.row_offsets, x.shape[2])).to(query.dtype)
        of_columns = by_place(resized(self.column_offsets, x.shape[3])).to(query.dtype)
        seen = relative_attention(query, key, value, of_rows, of_columns)
        return seen.permute(0, 1, 4, 2, 3).flatten(1, 2)


@final
class AttentionAugmented(Mechanism[None]):
    """The blocks own the convolutions; the mechanism has nothing of its own."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        self.config = config
        self.acts = acts_in(shape, config.stages)
        image_size, stride = (32, 1) if shape.small_images else (224, 4)
        self.reference = math.ceil((config.image_size or image_size) / (stride << shape.index))

    def convolution(self, t: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        """An augmented convolution, in the stages it acts in."""
        if not self.acts:
            return super().convolution(t, in_channels, out_channels, stride)
        return AugmentedConvolution(in_channels, out_channels, stride, self.reference, self.config)


_PAPER = Paper(
    "1904.09925",
    2019,
    reads="what the 3×3 convolution reads",
    writes="replaces the convolution",
    state="none",
    block="",
    results="ImageNet, ResNet-50: top-1 77.7",
)
register("aa", AttentionAugmented, Config, _PAPER)
