import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def fingerprint(paths: Iterable[Path]) -> str:
    """Changes when a file's path, size or time of change does."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        stat = path.stat()
        digest.update(os.fsencode(path.absolute()) + f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]
