"""From an encoded image to pixels of one size."""

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from crosslayer.cache import cache_dir
from crosslayer.console import errors, plain, progress
from crosslayer.data.pictures import upright_rgb
from crosslayer.data.split import Split
from crosslayer.errors import FailedError, UsageError, reason
from crosslayer.files import PARTIAL, disk, whole_file

CHUNK = 256
_LONGEST = 16
DAY = 24 * 60 * 60
Pixels = UInt8[Tensor, "batch 3 height width"]


Interpolation = Literal["bilinear", "bicubic"]
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclasses.dataclass(frozen=True)
class View:
    """What is looked at of an image in evaluation.

    Args:
        size: side of the square, in pixels.
        crop: `size` over the length the shorter side is scaled to before the centre is cut out (224 / 256 = 0.875).
        interpolation: how pixels are scaled.
    """

    size: int
    crop: float = 1.0
    interpolation: Interpolation = "bicubic"

    def of(self, image: Image.Image) -> np.ndarray:
        """Upright RGB pixels, scaled and cut: size × size × 3."""
        rgb = _middle_of_strip(upright_rgb(image))
        if self.crop < 1:
            from torchvision import transforms

            mode = transforms.InterpolationMode(self.interpolation)
            scale = transforms.Resize(round(self.size / self.crop), mode)
            return np.asarray(transforms.CenterCrop(self.size)(scale(rgb)))
        if rgb.size != (self.size, self.size):
            rgb = ImageOps.fit(rgb, (self.size, self.size), RESAMPLING[self.interpolation])
        return np.asarray(rgb)


def _middle_of_strip(image: Image.Image) -> Image.Image:
    """The image; of a strip, the middle _LONGEST squares of it: scaled by its shorter side it would fill the memory."""
    width, height = image.size
    side = _LONGEST * min(width, height)
    if max(width, height) <= side:
        return image
    left, top = (max(0, (length - side) // 2) for length in (width, height))
    return image.crop((left, top, left + min(width, side), top + min(height, side)))


@contextlib.contextmanager
def opened(split: Split, i: int) -> Iterator[Image.Image]:
    """Image i of a split, while its pixels are used.

    Raises:
        FailedError: it cannot be decoded; the sentence names it.
    """
    try:
        with split.open(i) as image:
            yield image
    except (FailedError, UsageError):
        raise
    except Exception as error:  # decoders of damaged pictures raise errors of any kind
        raise FailedError(f"{split.name(i)} cannot be decoded as an image: {_fault(error)}") from error


def _fault(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # names the file again, or an object in memory
        return "it is of no picture format that is read"
    return "there is not enough memory" if isinstance(error, MemoryError) else plain(reason(error))[:300]


def evenly_spaced(total: int, count: int) -> Tensor:
    """Indices of `count` of `total` things, or of all there are, from the first to the last."""
    return torch.linspace(0, total - 1, min(count, total)).round().long()


def decode(split: Split, i: int, view: View) -> np.ndarray:
    """Image i of a split, size × size × 3, or a FailedError that names it."""
    with opened(split, i) as image:
        return view.of(image)


def decode_batch(split: Split, indices: Sequence[int], view: View) -> Pixels:
    """Some images of a split."""
    return torch.from_numpy(np.stack([decode(split, i, view) for i in indices])).permute(0, 3, 1, 2)


def decode_all(split: Split, view: View, workers: int, description: str) -> Pixels:
    """All images of a split, decoded by `workers` threads, or from the cache of an earlier time."""
    cached = cache_file(split, view)
    if (found := _kept(cached, (len(split), view.size, view.size, 3))) is not None:
        return found
    chunks = [range(start, min(start + CHUNK, len(split))) for start in range(0, len(split), CHUNK)]
    pixels = torch.empty((len(split), view.size, view.size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        decoded = pool.map(lambda chunk: decode_batch(split, chunk, view), chunks)
        try:
            for chunk, batch in zip(chunks, progress(decoded, description, len(split)), strict=True):
                pixels[chunk.start : chunk.stop] = batch
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    keep(cached, pixels)
    return pixels


def cache_file(split: Split, view: View) -> Path:
    """Where a split's decoded pixels are kept."""
    key = hashlib.sha256(f"3 {split.fingerprint} {view}".encode()).hexdigest()[:24]
    return cache_dir("decoded") / f"{key}.npy"


def _kept(cached: Path, shape: tuple[int, ...]) -> Pixels | None:
    """What the cache holds; nothing where it was never written, or is damaged, which is said."""
    try:
        pixels = np.load(cached)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError):
        pixels = None
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape != shape:
        errors.print(f"{cached} is damaged; images are decoded anew")
        return None
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _remove_stale(folder: Path) -> None:
    """Removes what killed processes left of writing into the cache: nothing is written for a day."""
    for file in folder.glob(f".*{PARTIAL}"):
        with contextlib.suppress(OSError):  # another process has removed it, or it is another user's
            if time.time() - file.stat().st_mtime > DAY:
                disk.remove(file)


def keep(cached: Path, pixels: Pixels) -> None:
    """Writes the cache; where that fails, says so and goes on without."""
    _remove_stale(cached.parent)
    try:
        with whole_file(cached) as file:
            np.save(file, pixels.permute(0, 2, 3, 1).numpy())
    except FailedError as error:
        errors.print(f"decoded images are not cached: {error}")
