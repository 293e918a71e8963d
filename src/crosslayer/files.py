"""Files that are written whole or not at all."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from crosslayer.errors import FailedError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write into that takes the place of `path` only once all of it is on disk.

    Raises:
        FailedError: it could not be written (a full disk, no permission); `path` is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes `text` in UTF-8."""
    with whole_file(path) as file:
        file.write(text.encode())


def cannot_write(path: Path, error: OSError) -> FailedError:
    """One sentence for a write that failed."""
    return FailedError(f"cannot write {str(path)!r}: {error.strerror or error}; the file is as it was before")


def cache_directory() -> Path:
    """Where decoded and downloaded data is kept: $CROSSLAYER_CACHE, or the user's cache folder."""
    if given := os.environ.get("CROSSLAYER_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "crosslayer"
