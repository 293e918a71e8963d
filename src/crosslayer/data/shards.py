"""Parquet shards as Hugging Face's `datasets` writes them: pictures in one column, classes in another."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from crosslayer.console import errors, plain
from crosslayer.data.fingerprint import fingerprint
from crosslayer.data.folders import TRAIN_NAMES, VAL_NAMES
from crosslayer.data.parquet import ParquetSplit, column_names, read_column, read_pictures, schema_metadata
from crosslayer.data.schema import class_names
from crosslayer.data.split import Source
from crosslayer.data.walk import files_below
from crosslayer.errors import UsageError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")
_STRAY = "metadata.parquet"
"""What accompanies class folders on the Hugging Face hub."""
_MOST_CLASSES = 1 << 20


@dataclasses.dataclass(frozen=True)
class _Labels:
    """Labels of one shard, and what the numbers are called."""

    file: Path
    codes: np.ndarray
    names: tuple[str, ...]
    spelled: bool = False
    """The labels are the names themselves: which of them this shard holds says nothing of the numbers."""


def split_shards(root: Path) -> tuple[list[Path], list[Path]]:
    """The shards to train on and those to validate with, by file or folder name; hidden ones do not count."""
    files = sorted(
        path for path in files_below(root) if path.suffix.lower() == ".parquet" and path.name.lower() != _STRAY
    )
    return _of_first(TRAIN_NAMES, files), _of_first(VAL_NAMES, files)


def _of_first(names: Sequence[str], files: list[Path]) -> list[Path]:
    """The files of the first of these splits that has any."""
    for name in names:
        if of_split := [file for file in files if _is_named(file, name) or file.parent.name == name]:
            return of_split
    return []


def _is_named(file: Path, split: str) -> bool:
    return re.split(r"[-.]", file.name, maxsplit=1)[0] == split


def parquet_shards(root: Path, *, only_train: bool = False) -> Source:
    """Shards with an image column, of structs with `bytes` or of bytes, and a label column.

    Classes are numbered as the first shard to train on names them; others that number them otherwise are renumbered.
    With `only_train` those to validate with are not looked for, and stand for it themselves.

    Raises:
        UsageError: no such shards, several configurations of a data set, columns of other kinds, damaged files.
    """
    train, val = split_shards(root)
    if only_train:
        val = train
    if not train or not val:
        missing = "train-*.parquet" if not train else "validation-*.parquet or test-*.parquet"
        raise UsageError(f"--data {plain(root)}: there is no shard named {missing}")
    _check_configurations(root, [*train, *val])
    image_column, label_column = _columns(train[0])
    labels = [[_labels(file, label_column) for file in files] for files in (train, val)]
    classes = _classes(labels[0])
    spelled = any(shard.spelled for shard in labels[0])
    splits = []
    for files, read in zip((train, val), labels, strict=True):
        _check_complete(files)
        mark = fingerprint(files)
        codes = np.concatenate([_renumbered(shard, classes, spelled) for shard in read])
        table = read_pictures(files, image_column)
        if not len(codes):
            raise UsageError(f"--data {plain(root)}: {plain(files[0].name)} holds no image")
        splits.append(ParquetSplit(table, files, image_column, codes, mark))
    return Source(splits[0], splits[1], classes or _numbered(splits[0].labels, root))


def _check_configurations(root: Path, files: Sequence[Path]) -> None:
    """Refuses shards of several folders: they are different data sets, or one data set in several forms."""
    splits = (*TRAIN_NAMES, *VAL_NAMES)
    held = sorted(
        {file.parent if any(_is_named(file, name) for name in splits) else file.parent.parent for file in files}
    )
    if len(held) > 1:
        listed = ", ".join(plain(folder.relative_to(root)) for folder in held[:4]) + (", …" if held[4:] else "")
        raise UsageError(
            f"--data {plain(root)}: its shards are of {len(held)} configurations (folders {listed}): name the "
            "folder of the one you mean, or hf://OWNER/NAME/FOLDER"
        )


def _check_complete(files: Sequence[Path]) -> None:
    """Says so where shards number themselves 1 of 5 and some of the five are missing."""
    counted = [re.search(r"-of-(\d{1,6})\.", file.name) for file in files]
    expected = max((int(match[1]) for match in counted if match), default=0)
    if len(files) < expected:
        errors.print(f"{files[0].parent}: {len(files)} of the {expected} shards such as {files[0].name} are there")


def _columns(file: Path) -> tuple[str, str]:
    """The names of the image and the label column."""
    names = column_names(file)
    image = next((name for name in IMAGE_COLUMNS if name in names), None)
    label = next((name for name in LABEL_COLUMNS if name in names), None)
    if image and label:
        return image, label
    listed = ", ".join(map(plain, names[:12])) + (", …" if names[12:] else "")
    raise UsageError(
        f"--data {plain(file)}: needs an image column ({' or '.join(IMAGE_COLUMNS)}) and a label column "
        f"({' or '.join(LABEL_COLUMNS)}); it has {listed or 'none'}"
    )


def _labels(file: Path, column: str) -> _Labels:
    """A shard's labels: whole numbers, or strings, which are class names themselves."""
    values = read_column(file, column)
    if values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy())[0])
        raise UsageError(f"{plain(file)}, row {row}: there is no label in column {column!r}; leave such rows out")
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        encoded = values.dictionary_encode().combine_chunks() if len(values) else None
        spelled = encoded.dictionary.to_pylist() if encoded else []
        names = tuple(map(plain, spelled))
        codes = encoded.indices.to_numpy().astype(np.int64) if encoded else np.zeros(0, np.int64)
        return _Labels(file, codes, names, spelled=True)
    if not (pa.types.is_integer(values.type) or pa.types.is_boolean(values.type) or not len(values)):
        raise UsageError(f"{plain(file)}: column {column!r} holds {values.type}, not whole numbers or class names")
    try:
        codes = values.cast(pa.int64()).to_numpy()
    except pa.ArrowException as error:
        raise UsageError(f"{plain(file)}: column {column!r} holds numbers too large for classes") from error
    try:
        names = class_names(schema_metadata(file), column)
    except ValueError as error:
        errors.print(f"{file}: its class names cannot be read, classes are numbered (huggingface metadata: {error})")
        names = ()
    return _Labels(file, codes, names)


def _classes(shards: Sequence[_Labels]) -> tuple[str, ...]:
    """The names that the first shard with any numbers; of labels that are strings, all of them, sorted."""
    spelled = sorted({name for shard in shards if shard.spelled for name in shard.names})
    return next((shard.names for shard in shards if shard.names and not shard.spelled), tuple(spelled))


def _renumbered(shard: _Labels, classes: tuple[str, ...], spelled: bool) -> np.ndarray:
    """The labels as the data set's first names number them."""
    if shard.names == classes or not (shard.names or spelled):
        return shard.codes
    number = {name: i for i, name in enumerate(classes)}
    strange = [name for name in shard.names if name not in number]
    if strange or not shard.names or len(number) < len(classes) or len(set(shard.names)) < len(shard.names):
        what = f"{strange[0]!r} is not among the others'" if strange else "they are missing, or one stands twice"
        raise UsageError(f"{plain(shard.file)}: its class names are not those of the first shards: {what}")
    outside = np.flatnonzero((shard.codes < 0) | (shard.codes >= len(shard.names)))
    if len(outside):
        row, label = int(outside[0]), shard.codes[outside[0]]
        raise UsageError(f"{plain(shard.file)}, row {row} has label {label}, outside its {len(shard.names)} classes")
    return np.array([number[name] for name in shard.names], dtype=np.int64)[shard.codes]


def _numbered(labels: np.ndarray, root: Path) -> tuple[str, ...]:
    """0, 1, … up to the largest label."""
    largest = int(labels.max())
    if largest >= _MOST_CLASSES:
        raise UsageError(f"--data {plain(root)}: label {largest} is too large; number the classes 0, 1, 2, …")
    return tuple(str(label) for label in range(largest + 1))
