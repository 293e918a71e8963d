"""Where images come from: what `--data` may name, and how each layout is read."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from crosslayer.console import console
from crosslayer.data.split import ArraySplit, FileSplit, ParquetSplit, Source, read_shards
from crosslayer.errors import FailedError, UsageError
from crosslayer.files import cache_directory

DIGITS = "digits"
HUB = "hf://"
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")
TORCHVISION_FOLDERS = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}
LAYOUTS = (
    "a torchvision download (cifar-10-batches-py or cifar-100-python), parquet shards (train-*.parquet and "
    "validation-*.parquet or test-*.parquet), or class folders under train/ and val/ or test/"
)


def open_source(data: str, dataset: str | None = None) -> Source:
    """The data set that `data` names.

    Args:
        data: `digits` (8×8 handwritten digits that scikit-learn ships), `hf://OWNER/NAME` (parquet shards on the
            Hugging Face hub), or a folder in one of the known layouts.
        dataset: the torchvision data set (`CIFAR10`, `CIFAR100`) that is meant: looked for first where a folder holds
            both, and downloaded into a folder that is missing, empty, or holds the other one only.

    Raises:
        UsageError: no such folder, nothing in it, or no known layout.
        FailedError: a download that failed, unreadable shards, labels outside the classes.
    """
    if data == DIGITS:
        return digits()
    if data.startswith(HUB):
        return parquet_shards(from_hub(data.removeprefix(HUB)))
    root = Path(data).expanduser()
    empty = not root.is_dir() or not any(root.iterdir())
    if empty and root.exists() and not root.is_dir():
        raise UsageError(f"--data {data}: this is a file, not a folder; it takes {LAYOUTS}")
    if empty and dataset:
        return torchvision_cifar(root, dataset, fetch=True)
    if empty:
        state = "is empty" if root.exists() else "does not exist"
        raise UsageError(f"--data {data}: the folder {state}; it takes {LAYOUTS}")
    held = [name for name, folder in TORCHVISION_FOLDERS.items() if (root / folder).is_dir()]
    if held and (dataset or len(held) == 1):
        return torchvision_cifar(root, dataset or held[0], fetch=dataset not in (None, *held))
    if held:
        raise UsageError(f"--data {data}: the folder holds {' and '.join(held)}; name the recipe of the one you mean")
    if any(root.rglob("*.parquet")):
        return parquet_shards(root)
    if subfolder(root, TRAIN_NAMES):
        return image_folders(root)
    raise UsageError(f"--data {data}: found no layout crosslayer knows there; it takes {LAYOUTS}")


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


def torchvision_cifar(root: Path, name: str, *, fetch: bool = False) -> Source:
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
        raise FailedError(f"--data {root}: {what} ({error}); or give --data a folder with {LAYOUTS}") from error
    splits = [
        ArraySplit(split.data, np.asarray(split.targets), f"{name}-{part}-{fingerprint(root.rglob('*'))}")
        for part, split in (("train", train), ("test", val))
    ]
    return Source(splits[0], splits[1], tuple(train.classes))


def image_folders(root: Path) -> Source:
    """One folder per class under train/ and under val/ or test/."""
    train_root, val_root = subfolder(root, TRAIN_NAMES), subfolder(root, VAL_NAMES)
    if train_root is None or val_root is None:
        raise UsageError(f"--data {root}: class folders are needed under train/ and under val/ or test/")
    classes = sorted(path.name for path in train_root.iterdir() if path.is_dir())
    strange = sorted(path.name for path in val_root.iterdir() if path.is_dir() and path.name not in classes)
    if strange:
        raise UsageError(f"--data {root}: {val_root.name}/ has class {strange[0]!r}, which train/ has not")
    return Source(image_folder(train_root, classes), image_folder(val_root, classes), tuple(classes))


def image_folder(root: Path, classes: list[str]) -> FileSplit:
    """All image files below the class folders of `root`, in order of class and path."""
    suffixes = Image.registered_extensions()
    found = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in suffixes and path.is_file()
    ]
    if not found:
        raise UsageError(f"--data {root}: there is no image in its class folders ({', '.join(classes) or 'none'})")
    paths = [path for path, _ in found]
    return FileSplit(paths, np.array([label for _, label in found]), fingerprint(paths))


def from_hub(repository: str) -> Path:
    """The parquet shards of a data set on the Hugging Face hub, downloaded or from its cache."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, repo_type="dataset", allow_patterns="*.parquet"))
    except Exception as error:
        # The hub raises many kinds, some of them plain ValueError; all mean that the shards cannot be had.
        reason = str(error).strip().splitlines()[0]
        raise FailedError(f"--data {HUB}{repository}: cannot get it from the hub ({reason})") from error


def parquet_shards(root: Path) -> Source:
    """Hugging Face style shards: an image struct column with `bytes`, a label column, class names in the schema."""
    train, val = shards(root, TRAIN_NAMES), shards(root, VAL_NAMES)
    if not train or not val:
        missing = "train-*.parquet" if not train else "validation-*.parquet or test-*.parquet"
        raise UsageError(f"--data {root}: there is no shard named {missing}")
    schema = read_schema(train[0])
    label_column = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    image_column = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    if label_column is None or image_column is None:
        raise UsageError(
            f"--data {train[0]}: needs an image column ({' or '.join(IMAGE_COLUMNS)}) and a label column "
            f"({' or '.join(LABEL_COLUMNS)}); it has {', '.join(schema.names)}"
        )
    splits = [parquet_split(files, root, image_column, label_column) for files in (train, val)]
    classes = class_names(schema, label_column) or numbered_classes(splits[0].labels)
    return Source(splits[0], splits[1], classes)


def parquet_split(files: list[Path], root: Path, image_column: str, label_column: str) -> ParquetSplit:
    """The rows of some shards, in order of file name."""
    mark = fingerprint(files)
    try:
        table = read_shards(files, [image_column, label_column])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise FailedError(f"--data {root}: cannot read its parquet shards ({str(error).splitlines()[0]})") from error
    labels = table[label_column].to_numpy()
    if not np.issubdtype(labels.dtype, np.integer):
        raise FailedError(f"--data {root}: column {label_column!r} holds {labels.dtype} or gaps, not whole numbers")
    if not pa.types.is_struct(table.schema.field(image_column).type):
        raise FailedError(f"--data {root}: column {image_column!r} is not a struct of bytes and path")
    if not len(labels):
        raise UsageError(f"--data {root}: {files[0].name} holds no image")
    return ParquetSplit(table, files, (image_column, label_column), root, mark)


def read_schema(file: Path) -> pa.Schema:
    """A shard's columns."""
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise FailedError(f"--data {file}: not a readable parquet file ({str(error).splitlines()[0]})") from error


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """Class names as Hugging Face stores them in the schema's metadata, if it does."""
    stored = (schema.metadata or {}).get(b"huggingface", b"{}")
    feature: dict[str, Any] = json.loads(stored).get("info", {}).get("features", {}).get(column, {})
    return tuple(feature.get("names", ()))


def numbered_classes(labels: np.ndarray) -> tuple[str, ...]:
    """0, 1, … up to the largest label."""
    return tuple(str(label) for label in range(int(labels.max()) + 1))


def shards(root: Path, names: tuple[str, ...]) -> list[Path]:
    """Parquet files of the first of these splits that has any, by file or folder name."""
    files = sorted(root.rglob("*.parquet"))
    for name in names:
        of_split = [f for f in files if f.name.split("-")[0].split(".")[0] == name or f.parent.name == name]
        if of_split:
            return of_split
    return []


def subfolder(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first of these folders that `root` has."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def fingerprint(paths: Iterable[Path]) -> str:
    """Changes when a file's path, size or time of change does."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        stat = path.stat()
        digest.update(f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def default_download_folder(name: str) -> str:
    """Where a recipe keeps the data set it downloads."""
    return str(cache_directory() / name)
