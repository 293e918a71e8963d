"""Data sets that torchvision downloads, by name: `--data torchvision:Flowers102`."""

import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple, final

import numpy as np
from PIL import Image

from crosslayer.cache import cache_dir
from crosslayer.console import console, plain
from crosslayer.data.split import Source, Split
from crosslayer.errors import FailedError, UsageError, reason
from crosslayer.mechanisms.registry import unknown_name

PREFIX = "torchvision:"
_Arguments = Mapping[str, Any]


class _Parts(NamedTuple):
    """What torchvision's class is given for the training images and, where there are any, for those to validate on."""

    train: _Arguments
    val: _Arguments | None


def _by_split(train: str, val: str) -> _Parts:
    return _Parts({"split": train}, {"split": val})


_BY_FLAG = _Parts({"train": True}, {"train": False})
_WHOLE = _Parts({}, None)
_SETS = {
    "CIFAR10": _BY_FLAG,
    "CIFAR100": _BY_FLAG,
    "Caltech101": _WHOLE,
    "Caltech256": _WHOLE,
    "Country211": _by_split("train", "valid"),
    "DTD": _by_split("train", "val"),
    "EuroSAT": _WHOLE,
    "FGVCAircraft": _by_split("train", "val"),
    "FashionMNIST": _BY_FLAG,
    "Flowers102": _by_split("train", "val"),
    "Food101": _by_split("train", "test"),
    "GTSRB": _by_split("train", "test"),
    "Imagenette": _by_split("train", "val"),
    "KMNIST": _BY_FLAG,
    "MNIST": _BY_FLAG,
    "OxfordIIITPet": _by_split("trainval", "test"),
    "RenderedSST2": _by_split("train", "val"),
    "STL10": _by_split("train", "test"),
    "SVHN": _by_split("train", "test"),
    "USPS": _BY_FLAG,
}
_LABELS = ("targets", "labels", "_labels", "y")
"""Attributes that torchvision's classes keep all labels in; the others keep pairs in `_samples`."""


@final
class _TorchvisionSplit(Split):
    """One of torchvision's data sets, which opens pictures itself."""

    def __init__(self, dataset: Any, fingerprint: str) -> None:
        super().__init__(_labels(dataset), fingerprint)
        self.dataset = dataset

    def open(self, i: int) -> Image.Image:
        """Image i."""
        return self.dataset[i][0]

    def name(self, i: int) -> str:
        """Its number in the set."""
        return f"{self.fingerprint}, image {i}"


def _labels(dataset: Any) -> np.ndarray:
    """Every image's class, without opening any."""
    for name in _LABELS:
        if (found := getattr(dataset, name, None)) is not None:
            return np.asarray(found)
    return np.array([label for _, label in dataset._samples])


def torchvision_set(name: str, *, only_train: bool) -> Source:
    """The data set, downloaded into the cache where it is not there.

    Args:
        name: of torchvision's class.
        only_train: nothing is needed to validate on.

    Raises:
        UsageError: no such data set, or one without a validation split.
        FailedError: a download that failed.
    """
    if name not in _SETS:
        raise UsageError(f"--data {PREFIX}{plain(name)}: {unknown_name('data set', name, _SETS)} ({', '.join(_SETS)})")
    parts = _SETS[name]
    if parts.val is None and not only_train:
        raise UsageError(
            f"--data {PREFIX}{name}: it has no validation split; give --val-split 0.2 to validate on a fifth of it"
        )
    train = _opened(name, "train", parts.train)
    val = train if parts.val is None or only_train else _opened(name, "val", parts.val)
    classes = getattr(train.dataset, "classes", None) or getattr(train.dataset, "categories", None)
    return Source(train, val, tuple(map(str, classes or range(int(train.labels.max()) + 1))))


def _opened(name: str, part: str, arguments: _Arguments) -> _TorchvisionSplit:
    """One split, from the cache or the network."""
    import torchvision

    root = cache_dir("torchvision") / name
    new = not root.exists()
    if new:
        console.print(f"downloading {name} to {root}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        dataset = getattr(torchvision.datasets, name)(root, download=True, **arguments)
    except Exception as error:
        # What goes wrong in a download has many kinds, some of them none of Python's own.
        if new:
            shutil.rmtree(root, ignore_errors=True)
        raise FailedError(f"--data {PREFIX}{name}: cannot get it into {root} ({plain(reason(error))})") from error
    return _TorchvisionSplit(dataset, f"torchvision-{name}-{part}")
