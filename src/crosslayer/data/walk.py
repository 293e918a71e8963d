"""Files below a folder: links are followed, and what tools and systems leave behind is passed over."""

import os
from collections.abc import Iterator
from pathlib import Path

from crosslayer.console import plain
from crosslayer.errors import UsageError

_LEFT_BEHIND = frozenset(
    ("@eadir", "__macosx", "__pycache__", "$recycle.bin", "lost+found", "system volume information", "#recycle")
)


def is_left_behind(name: str) -> bool:
    """A hidden file or folder, or one that a system or a tool makes: .ipynb_checkpoints, ._x.jpg, @eaDir."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, by name.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(f"cannot read folder {plain(folder)}: {error.strerror or error}") from error


def subfolders(folder: Path) -> list[Path]:
    """The folders, linked ones too, of a folder, but for those left behind."""
    return [Path(entry.path) for entry in entries(folder) if is_folder(entry) and not is_left_behind(entry.name)]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """A folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def files_below(folder: Path, skipped: list[Path] | None = None) -> Iterator[Path]:
    """The files below a folder, in no order; a folder that several links lead to is looked at once.

    Args:
        folder: where to begin.
        skipped: takes what was passed over: what was left behind, links that lead nowhere, what is no file.
    """
    passed = [] if skipped is None else skipped
    real = Path(os.path.realpath(folder))
    seen = {_identity(above) for above in (real, *real.parents)}  # a link to a folder above would never end
    waiting = [folder]
    while waiting:
        for entry in entries(waiting.pop()):
            path = Path(entry.path)
            if is_left_behind(entry.name):
                passed.append(path)
            elif is_folder(entry):
                if (identity := _identity(path)) not in seen:
                    seen.add(identity)
                    waiting.append(path)
            elif _is_file(entry):
                yield path
            else:
                passed.append(path)


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino
