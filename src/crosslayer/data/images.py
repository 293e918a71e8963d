"""Batches of pixels on the device: from memory there, or decoded on the way."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from crosslayer.data.decode import Pixels, View, decode, decode_all
from crosslayer.data.split import Split

LoaderName = Literal["auto", "resident", "stream"]
RESIDENT_BYTES = 2 << 30
TOGETHER_BYTES = 4 << 20
"""Pixels of small batches that are worked on together: on a GPU an operation on few costs what one on many does."""
PREFETCH = 4

Indices = Int64[Tensor, " _"]
"""Which images a batch is made of; batches may differ in size."""


class Batch(NamedTuple):
    """Pixels and classes of some images, on the device."""

    pixels: Pixels
    labels: Int64[Tensor, " batch"]


class Images(ABC):
    """A split that hands out batches."""

    together: int = 1
    """Images that are best asked for at once, in batches of several steps."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, plan: Iterable[Indices]) -> Iterator[Batch]:
        """One batch for every index tensor of the plan, in order."""


def load_images(
    split: Split, view: View, device: torch.device, workers: int, loader: LoaderName, description: str
) -> Images:
    """A split's images in one view: kept on the device if they are few, else decoded as they are asked for."""
    few = len(split) * 3 * view.size**2 <= RESIDENT_BYTES
    if loader == "resident" or (loader == "auto" and few):
        return ResidentImages(decode_all(split, view, workers, description), split.labels, device)
    return StreamedImages(split, view, device, workers)


@final
class ResidentImages(Images):
    """All images as one tensor on the device; a batch is one indexing operation there."""

    def __init__(self, pixels: Pixels, labels: np.ndarray, device: torch.device) -> None:
        self.pixels = pixels.to(device)
        self.labels = torch.from_numpy(labels).to(device)
        self.together = max(1, TOGETHER_BYTES // pixels[0].numel())

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, plan: Iterable[Indices]) -> Iterator[Batch]:
        """Rows of the tensor."""
        for indices in plan:
            rows = indices.to(self.pixels.device, non_blocking=True)
            yield Batch(self.pixels[rows], self.labels[rows])


@final
class StreamedImages(Images):
    """Images decoded by a pool of threads, a few batches ahead of their use."""

    def __init__(self, split: Split, view: View, device: torch.device, workers: int) -> None:
        self.split, self.view, self.device, self.workers = split, view, device, workers

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, plan: Iterable[Indices]) -> Iterator[Batch]:
        """Decodes PREFETCH batches ahead; the order is the plan's, whatever the number of threads."""
        waiting: deque[tuple[Indices, list[Future[np.ndarray]]]] = deque()
        pool = ThreadPoolExecutor(max(1, self.workers))
        try:
            for indices in plan:
                futures = [pool.submit(decode, self.split, i, self.view) for i in indices.tolist()]
                waiting.append((indices, futures))
                if len(waiting) > PREFETCH:
                    yield self.collect(*waiting.popleft())
            while waiting:
                yield self.collect(*waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def collect(self, indices: Indices, futures: list[Future[np.ndarray]]) -> Batch:
        """One decoded batch, on its way to the device."""
        pixels = torch.from_numpy(np.stack([future.result() for future in futures])).permute(0, 3, 1, 2)
        labels = torch.from_numpy(self.split.labels[indices.numpy()])
        if self.device.type == "cuda":
            pixels, labels = pixels.pin_memory(), labels.pin_memory()
        return Batch(pixels.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True))
