"""Class folders, as in train/CLASS/cat.jpg and val/CLASS/dog.jpg."""

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crosslayer.console import errors, plain
from crosslayer.data.fingerprint import fingerprint
from crosslayer.data.pictures import picture_suffixes
from crosslayer.data.split import FileSplit, Source
from crosslayer.data.walk import entries, files_below, is_folder, is_left_behind, subfolders
from crosslayer.errors import UsageError

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")


class _ClassFolders(NamedTuple):
    """The pictures below each class folder of a split, and everything else that was found there."""

    root: Path
    pictures: dict[str, list[Path]]
    skipped: list[Path]


def has_class_folders(root: Path) -> bool:
    """Whether there is a folder for training with folders of its own."""
    train = subfolder(root, TRAIN_NAMES)
    return train is not None and bool(subfolders(train))


def image_folders(root: Path, *, only_train: bool = False) -> Source:
    """One folder per class under train/ and under val/ or test/; with `only_train`, train/ stands for both.

    Raises:
        UsageError: a split without pictures, a class that only validation has, folders that are nested once more.
    """
    train_root, val_root = subfolder(root, TRAIN_NAMES), subfolder(root, VAL_NAMES)
    if only_train:
        val_root = train_root
    if train_root is None or val_root is None:
        raise UsageError(
            f"--data {plain(root)}: class folders are needed under train/ and under val/ or test/, or "
            "--val-split 0.2 to validate on a fifth of train/"
        )
    return _from_class_folders(root, _class_folders(train_root, TRAIN_NAMES), _class_folders(val_root, VAL_NAMES))


def flat_folders(root: Path) -> Source:
    """One folder per class, with nothing to validate on: the same images stand for both.

    Raises:
        UsageError: no pictures in them.
    """
    folders = _class_folders(root, ())
    return _from_class_folders(root, folders, folders)


def _from_class_folders(root: Path, train: _ClassFolders, val: _ClassFolders) -> Source:
    """The classes that training has pictures of; validation may lack some of them."""
    names = [name for name, pictures in train.pictures.items() if pictures]
    splits = [_split(folders, names, root) for folders in (train, val)]
    strange = [name for name, pictures in val.pictures.items() if pictures and name not in names]
    if strange:
        raise UsageError(
            f"--data {plain(root)}: {val.root.name}/ has class {plain(strange[0])!r}, which train/ has no picture of"
        )
    if len(names) == 1:
        _check_one_class(train.root / names[0], train.pictures[names[0]])
    if said := _sentence(*([train] if val.root == train.root else [train, val])):
        errors.print(f"--data {root}: skipped {said}")
    return Source(splits[0], splits[1], tuple(map(plain, names)))


def subfolder(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first of these folders that `root` has."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def _class_folders(root: Path, names: tuple[str, ...]) -> _ClassFolders:
    """The class folders of a split, which may lie in a folder of the split's own name once more (train/train/cat)."""
    seen: set[str] = set()
    while len(below := subfolders(root)) == 1 and below[0].name in names and os.path.realpath(root) not in seen:
        seen.add(os.path.realpath(root))
        root = below[0]
    pictures: dict[str, list[Path]] = {}
    skipped: list[Path] = []
    for entry in entries(root):
        path = Path(entry.path)
        if is_left_behind(entry.name) or not is_folder(entry):
            skipped.append(path)
            continue
        files = sorted(files_below(path, skipped))
        pictures[entry.name] = [file for file in files if file.suffix.lower() in picture_suffixes()]
        skipped += [file for file in files if file.suffix.lower() not in picture_suffixes()]
    return _ClassFolders(root, pictures, skipped)


def _split(folders: _ClassFolders, names: list[str], data: Path) -> FileSplit:
    """The pictures of a split, in order of class and path."""
    found = [(path, label) for label, name in enumerate(names) for path in folders.pictures.get(name, [])]
    listed = ", ".join(map(plain, folders.pictures)) or "none"
    if not any(folders.pictures.values()):
        beside = any(path.suffix.lower() in picture_suffixes() for path in folders.skipped)
        hint = "; pictures beside or in hidden folders do not count" if beside else ""
        raise UsageError(
            f"--data {plain(data)}: there is no image in its class folders under {plain(folders.root)} ({listed}){hint}"
        )
    paths = [path for path, _ in found]
    return FileSplit(paths, np.array([label for _, label in found], dtype=np.int64), fingerprint(paths))


def _check_one_class(folder: Path, pictures: list[Path]) -> None:
    """Refuses a single class whose pictures all lie in several folders: those are the classes."""
    below = sorted({path.relative_to(folder).parts[0] for path in pictures})
    if len(below) > 1 and not any(path.parent == folder for path in pictures):
        raise UsageError(
            f"{plain(folder)} is the only class folder there, and holds folders ({plain(', '.join(below[:3]))}, …): "
            "move these one folder up if they are the classes"
        )


def _sentence(*splits: _ClassFolders) -> str:
    """How many things were skipped, and of what kinds; nothing, where nothing was."""
    skipped = [path for folders in splits for path in folders.skipped]
    empty = [folders.root / name for folders in splits for name, found in folders.pictures.items() if not found]
    kinds = Counter(path.suffix.lower() or path.name for path in skipped)
    common = ", ".join(plain(kind) for kind, _ in kinds.most_common(5)) + (", …" if len(kinds) > 5 else "")
    parts = []
    if skipped:
        parts.append(f"{len(skipped)} files and folders that are no pictures in a class folder ({common})")
    if empty:
        parts.append(f"{len(empty)} class folders without pictures ({plain(empty[0])}{', …' if empty[1:] else ''})")
    return " and ".join(parts)
