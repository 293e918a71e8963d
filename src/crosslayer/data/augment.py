"""Random crop and flip of whole batches on the device, and normalisation."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from crosslayer.data.decode import Pixels


class Draws(NamedTuple):
    """What chance decided for every image of a batch."""

    top: Int64[Tensor, " batch"]
    left: Int64[Tensor, " batch"]
    flipped: Bool[Tensor, " batch"]


def draw(generator: torch.Generator, count: int, pad: int, flip: bool) -> Draws:
    """Crop offsets in [0, 2·pad] and, with `flip`, a fair coin per image; drawn on the CPU for any device."""
    top, left = torch.randint(0, 2 * pad + 1, (2, count), generator=generator)
    coin = torch.rand(count, generator=generator) < 0.5
    return Draws(top, left, coin & flip)


def crop_and_flip(pixels: Pixels, draws: Draws, pad: int) -> Pixels:
    """Pads with black on all sides, cuts the original size out at each image's offset, mirrors where flipped."""
    batch, _, height, width = pixels.shape
    top, left, flipped = (part.to(pixels.device, non_blocking=True) for part in draws)
    padded = F.pad(pixels, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    windows = padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)  # of every offset: a view
    cropped = windows[torch.arange(batch, device=pixels.device), top, left]
    return torch.where(flipped[:, None, None, None], cropped.flip(2), cropped).permute(0, 3, 1, 2)


def normalise(pixels: Pixels, mean: Sequence[float], std: Sequence[float]) -> Float[Tensor, "batch 3 height width"]:
    """Pixels scaled to [0, 1], less the mean, over the standard deviation, per channel; float32."""
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), pixels.device)
    return torch.addcmul(shift, pixels.float(), scale)


@lru_cache(maxsize=8)
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """1 / (255 std) and -mean / std, on the device: copied there once, since every copy waits for it."""
    columns = [[1 / (255 * s), -m / s] for m, s in zip(mean, std, strict=True)]
    scale, shift = torch.tensor(columns, device=device).unbind(1)
    return scale.view(3, 1, 1), shift.view(3, 1, 1)
