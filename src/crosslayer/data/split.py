"""One split of a data set: encoded images, their names and labels. What every source yields."""

import dataclasses
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from crosslayer.errors import FailedError


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
            check_labels(split, self.classes)


def check_labels(split: Split, classes: Sequence[str]) -> None:
    """Raises FailedError that names the first image whose label is no class."""
    outside = np.flatnonzero((split.labels < 0) | (split.labels >= len(classes)))
    if len(outside):
        i = int(outside[0])
        raise FailedError(
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
        return Image.open(self.paths[i])

    def name(self, i: int) -> str:
        """Its path."""
        return self.paths[i]


def read_shards(files: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    """Some columns of parquet shards, mapped into memory."""
    return pa.concat_tables([pq.read_table(file, columns=list(columns), memory_map=True) for file in files])


@final
class ParquetSplit(Split):
    """Encoded images in a column of parquet shards; a process it is sent to reads the shards itself."""

    def __init__(self, table: pa.Table, files: list[Path], columns: tuple[str, str], root: Path, mark: str) -> None:
        super().__init__(table[columns[1]].to_numpy(), mark)
        self.column = table[columns[0]]
        self.files, self.image_column, self.root = files, columns[0], root

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "column"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, column=read_shards(state["files"], [state["image_column"]])[state["image_column"]])

    def open(self, i: int) -> Image.Image:
        """Image i."""
        encoded = self.column[i].as_py()
        if not encoded or not encoded.get("bytes"):
            raise OSError("it has no bytes")
        return Image.open(io.BytesIO(encoded["bytes"]))

    def name(self, i: int) -> str:
        """Its row, and the file name stored with it."""
        stored = self.column[i].as_py() or {}
        return f"{self.root}, row {i}" + (f" ({stored['path']})" if stored.get("path") else "")
