"""One split of a data set: encoded images, their names and labels. What every source yields."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
from PIL import Image

from crosslayer.console import plain
from crosslayer.data.pictures import open_picture
from crosslayer.errors import UsageError


class Split(ABC):
    """Images that are opened one by one, in any order, from any thread, and in any process it is sent to."""

    def __init__(self, labels: np.ndarray, fingerprint: str) -> None:
        self.labels = labels.astype(np.int64)
        """Class of every image."""
        self.fingerprint = fingerprint
        """Changes whenever the images may have: names the cache of what was decoded from them."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def open(self, i: int) -> Image.Image:
        """Image i; decoding may happen later, when its pixels are asked for."""

    @abstractmethod
    def name(self, i: int) -> str:
        """What to call image i in an error message."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set: what to train on, what to test on, and what its classes are called."""

    train: Split
    val: Split
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for split in (self.train, self.val):
            _check_labels(split, self.classes)


def _check_labels(split: Split, classes: Sequence[str]) -> None:
    """Raises UsageError that names the first image whose label is no class."""
    outside = np.flatnonzero((split.labels < 0) | (split.labels >= len(classes)))
    if len(outside):
        i = int(outside[0])
        raise UsageError(
            f"{split.name(i)} has label {split.labels[i]}, outside the {len(classes)} classes 0 to {len(classes) - 1}"
            f" ({len(outside)} such images)"
        )


@final
class ArraySplit(Split):
    """Images that are in memory: n × height × width × 3, uint8."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, fingerprint: str) -> None:
        super().__init__(labels, fingerprint)
        self.images = images

    def open(self, i: int) -> Image.Image:
        """Image i."""
        return Image.fromarray(self.images[i])

    def name(self, i: int) -> str:
        """Its number in the set."""
        return f"{self.fingerprint}, image {i}"


@final
class FileSplit(Split):
    """Image files."""

    def __init__(self, paths: Sequence[Path | str], labels: np.ndarray, fingerprint: str) -> None:
        super().__init__(labels, fingerprint)
        self.paths = [str(path) for path in paths]  # a fifth of the size and time of Path when sent to a worker

    def open(self, i: int) -> Image.Image:
        """Image i."""
        return open_picture(self.paths[i])

    def name(self, i: int) -> str:
        """Its path."""
        return plain(self.paths[i])
