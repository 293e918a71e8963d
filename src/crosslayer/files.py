"""Files that are written whole or not at all, and the one place where files are changed."""

import contextlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from crosslayer.errors import FailedError

PARTIAL = ".partial"
"""How the names of files end that are being written; a killed process leaves them."""


class Disk:
    """Every change that is made to files, one method for each, so that tests can let any one of them fail."""

    def make_folder(self, path: Path) -> None:
        """A folder, with those that it is in."""
        path.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path) -> int:
        """A new file's descriptor."""
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)

    def open(self, path: Path) -> int:
        """The descriptor of a file, made if need be, that is read anywhere and written at its end."""
        return os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR | os.O_CLOEXEC, 0o644)

    def write(self, descriptor: int, data: Any) -> int:
        """Writes some bytes; how many."""
        return os.write(descriptor, data)

    def truncate(self, descriptor: int, length: int) -> None:
        """Cuts a file."""
        os.ftruncate(descriptor, length)

    def sync(self, descriptor: int) -> None:
        """Waits until a file, or a folder's names, are on the disk."""
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Gives a file another name, in place of a file that has it."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Removes a file, if it is there."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Removes a folder with all it holds, if it is there."""
        if path.is_dir():
            shutil.rmtree(path)


disk = Disk()
"""What all of crosslayer's writing goes through."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write into that takes the place of `path` only once all of it is on disk.

    Raises:
        FailedError: it could not be written (a full disk, no permission); `path` is as it was.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        disk.make_folder(path.parent)
        raw = _Written(disk.create(partial))
        try:
            with raw, io.BufferedWriter(raw, 1 << 20) as file:
                yield file
                file.flush()
                disk.sync(raw.descriptor)
            disk.rename(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):  # why it could not be written is told; why not removed adds nothing
                disk.remove(partial)
            raise
        _sync_names(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


class _Written(io.RawIOBase):
    """A descriptor as a file. It has no `fileno`: libraries that know one write past us, and hide why that failed."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return disk.write(self.descriptor, data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self.descriptor)


def _sync_names(folder: Path) -> None:
    """A rename is on the disk once its folder is; not every system can tell a folder's time."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        disk.sync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes `text` in UTF-8; what it cannot hold, such as a file name of other bytes, is escaped."""
    with whole_file(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def is_partial_of(file: Path, names: tuple[str, ...]) -> bool:
    """Whether a file is what a killed process left of writing one of these."""
    return file.name.endswith(PARTIAL) and file.name.startswith(tuple(f".{name}." for name in names))


def cannot_write(path: Path, error: OSError) -> FailedError:
    """One sentence for a change of a file that failed."""
    return FailedError(f"cannot write {str(path)!r}: {error.strerror or error}")
