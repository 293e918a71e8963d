"""Where images come from: what `--data` may name, and how each layout is read."""

import shutil
from pathlib import Path

import numpy as np

from crosslayer.cache import cache_dir
from crosslayer.console import console, plain
from crosslayer.data.fingerprint import fingerprint
from crosslayer.data.folders import TRAIN_NAMES, flat_folders, has_class_folders, image_folders, subfolder
from crosslayer.data.holdout import hold_out
from crosslayer.data.shards import parquet_shards, split_shards
from crosslayer.data.split import ArraySplit, Source
from crosslayer.data.torchvision_sets import PREFIX, torchvision_set
from crosslayer.data.walk import entries, is_left_behind, subfolders
from crosslayer.errors import FailedError, UsageError, reason

DIGITS = "digits"
HUB = "hf://"
TORCHVISION_FOLDERS = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}
LAYOUTS = (
    "a torchvision download (cifar-10-batches-py or cifar-100-python), parquet shards (train-*.parquet and "
    "validation-*.parquet or test-*.parquet), or class folders under train/ and val/ or test/"
)


def open_source(data: str, dataset: str | None = None, val_split: float = 0.0) -> Source:
    """The data set that `data` names.

    Args:
        data: `digits` (8×8 handwritten digits that scikit-learn ships), `hf://OWNER/NAME` (parquet shards on the
            Hugging Face hub; `hf://OWNER/NAME/FOLDER` for one of several configurations), `torchvision:NAME`, or a
            folder in one of the known layouts.
        dataset: the torchvision data set (`CIFAR10`, `CIFAR100`) that is meant: looked for first where a folder holds
            both, and downloaded into a folder that is missing, empty, or holds the other one only.
        val_split: the share of the training images to validate on, in place of the validation split; only with it
            the data may have no validation split.

    Raises:
        UsageError: no such folder, nothing in it, no known layout, unreadable shards, labels outside the classes.
        FailedError: a download that failed.
    """
    source = _find_source(data, dataset, only_train=val_split > 0)
    return hold_out(source, val_split) if val_split else source


def _find_source(data: str, dataset: str | None, *, only_train: bool) -> Source:
    """The data set as it is; `only_train`: its validation split is not asked for."""
    if data == DIGITS:
        return digits()
    if data.startswith(HUB):
        return parquet_shards(_from_hub(data.removeprefix(HUB)), only_train=only_train)
    if data.startswith(PREFIX):
        return torchvision_set(data.removeprefix(PREFIX), only_train=only_train)
    root = _home_expanded(data)
    said = f"--data {plain(data)}"
    if root.exists() and not root.is_dir():
        raise UsageError(f"{said}: this is a file, not a folder; it takes {LAYOUTS}")
    empty = not root.is_dir() or all(is_left_behind(entry.name) for entry in entries(root))
    if empty and dataset:
        return _torchvision_cifar(root, dataset, fetch=True)
    if empty:
        raise UsageError(f"{said}: the folder {'is empty' if root.exists() else 'does not exist'}; it takes {LAYOUTS}")
    held = [name for name, folder in TORCHVISION_FOLDERS.items() if (root / folder).is_dir()]
    if held and (dataset or len(held) == 1):
        return _torchvision_cifar(root, dataset or held[0], fetch=dataset not in (None, *held))
    if held:
        raise UsageError(f"{said}: the folder holds {' and '.join(held)}; name the recipe of the one you mean")
    return _shards_or_folders(root, only_train=only_train)


def _shards_or_folders(root: Path, *, only_train: bool) -> Source:
    """What a folder holds: shards of both splits, or else class folders, or else shards of one split, which is told."""
    train, val = split_shards(root)
    folders = has_class_folders(root)
    if train and val and folders:
        raise UsageError(
            f"--data {plain(root)}: it holds class folders and parquet shards ({plain(train[0].relative_to(root))}); "
            "move one of them elsewhere"
        )
    if (train or val) and not folders:
        return parquet_shards(root, only_train=only_train)
    if subfolder(root, TRAIN_NAMES):
        return image_folders(root, only_train=only_train)
    if only_train and subfolders(root):
        return flat_folders(root)
    if len(subfolders(root)) > 1:
        raise UsageError(
            f"--data {plain(root)}: it has no train/ and val/; if its folders are the classes, give --val-split 0.2 to "
            "validate on a fifth of each"
        )
    raise UsageError(f"--data {plain(root)}: found no layout crosslayer knows there; it takes {LAYOUTS}")


def _home_expanded(data: str) -> Path:
    """The path, with ~ as the home folder."""
    try:
        return Path(data).expanduser()
    except RuntimeError as error:
        raise UsageError(f"--data {plain(data)}: {reason(error)}") from error


def digits() -> Source:
    """Optical recognition of handwritten digits (UCI), as shipped with scikit-learn: 1,437 train, 360 test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = (np.asarray(images).reshape(-1, 8, 8, 1) * (255 / 16)).round().astype(np.uint8).repeat(3, axis=3)
    labels = np.asarray(labels)
    train, val = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    return Source(
        ArraySplit(pixels[train], labels[train], "digits-train"),
        ArraySplit(pixels[val], labels[val], "digits-test"),
        tuple(str(digit) for digit in range(10)),
    )


def _torchvision_cifar(root: Path, name: str, *, fetch: bool = False) -> Source:
    """CIFAR-10 or CIFAR-100 as torchvision stores it, downloaded first where asked."""
    import torchvision

    cls = getattr(torchvision.datasets, name)
    if fetch:
        console.print(f"{root} does not hold {name}: downloading it there")
    made = fetch and not root.exists()
    try:
        train, val = (cls(root, train=is_train, download=fetch) for is_train in (True, False))
    except (RuntimeError, OSError) as error:
        if made:
            shutil.rmtree(root, ignore_errors=True)
        what = f"could not download {name} into it" if fetch else f"{name} there is incomplete or damaged"
        raise FailedError(
            f"--data {plain(root)}: {what} ({plain(reason(error))}); or give --data a folder with {LAYOUTS}"
        ) from error
    own = [file for file, _ in (*cls.train_list, *cls.test_list)] + [cls.meta["filename"]]
    mark = fingerprint([root / cls.base_folder / file for file in own])
    splits = [
        ArraySplit(split.data, np.asarray(split.targets), f"{name}-{part}-{mark}")
        for part, split in (("train", train), ("test", val))
    ]
    return Source(splits[0], splits[1], tuple(train.classes))


def _from_hub(name: str) -> Path:
    """The parquet shards of OWNER/NAME on the Hugging Face hub, or of a folder there, downloaded or from its cache."""
    from huggingface_hub import snapshot_download

    owner, _, rest = name.partition("/")
    repository, _, folder = rest.partition("/")
    wanted = f"{folder.rstrip('/')}/*.parquet" if folder else "*.parquet"
    try:
        snapshot = snapshot_download(f"{owner}/{repository}".rstrip("/"), repo_type="dataset", allow_patterns=wanted)
    except Exception as error:
        # The hub raises many kinds, some of them plain ValueError; all mean that the shards cannot be had.
        raise FailedError(f"--data {HUB}{plain(name)}: cannot get it from the hub ({plain(reason(error))})") from error
    return Path(snapshot) / folder


def default_download_folder(name: str) -> str:
    """Where a recipe keeps the data set it downloads."""
    return str(cache_dir(name))
