"""From an encoded image to pixels of one size."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from crosslayer.console import errors, progress
from crosslayer.data.split import Split
from crosslayer.errors import FailedError
from crosslayer.files import cache_directory, whole_file

CHUNK = 256
Pixels = UInt8[Tensor, "batch 3 height width"]


def fit(image: Image.Image, size: int) -> np.ndarray:
    """Upright RGB pixels, shorter side scaled to `size`, centre cut out: size × size × 3."""
    upright = ImageOps.exif_transpose(image)
    if "transparency" in upright.info:  # Pillow asks for this step, or warns
        upright = upright.convert("RGBA")
    rgb = upright.convert("RGB")
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def decode(split: Split, i: int, size: int) -> np.ndarray:
    """Image i of a split, size × size × 3.

    Raises:
        FailedError: it cannot be decoded; the sentence names it.
    """
    try:
        with split.open(i) as image:
            return fit(image, size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FailedError(f"{split.name(i)} cannot be decoded as an image: {error}") from error


def decode_batch(split: Split, indices: Sequence[int], size: int) -> Pixels:
    """Some images of a split."""
    return torch.from_numpy(np.stack([decode(split, i, size) for i in indices])).permute(0, 3, 1, 2)


def decode_all(split: Split, size: int, workers: int, description: str) -> Pixels:
    """All images of a split, decoded by `workers` threads, or from the cache of an earlier time."""
    cached = cache_file(split, size)
    if cached.is_file():
        return torch.from_numpy(np.load(cached)).permute(0, 3, 1, 2)
    chunks = [range(start, min(start + CHUNK, len(split))) for start in range(0, len(split), CHUNK)]
    pixels = torch.empty((len(split), size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        decoded = pool.map(lambda chunk: decode_batch(split, chunk, size), chunks)
        try:
            for chunk, batch in zip(chunks, progress(decoded, description, len(split)), strict=True):
                pixels[chunk.start : chunk.stop] = batch
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    keep(cached, pixels)
    return pixels


def cache_file(split: Split, size: int) -> Path:
    """Where a split's decoded pixels are kept."""
    key = hashlib.sha256(f"1 {split.fingerprint} {size}".encode()).hexdigest()[:24]
    return cache_directory() / "decoded" / f"{key}.npy"


def keep(cached: Path, pixels: Pixels) -> None:
    """Writes the cache; where that fails, says so and goes on without."""
    try:
        with whole_file(cached) as file:
            np.save(file, pixels.permute(0, 2, 3, 1).numpy())
    except FailedError as error:
        errors.print(f"decoded images are not cached: {error}")
