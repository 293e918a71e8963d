"""A disk on which one chosen operation fails, or at which the process ends."""

import os
from pathlib import Path
from typing import Any

from crosslayer.files import Disk

OPERATIONS = tuple(name for name in vars(Disk) if not name.startswith("_"))


class Killed(BaseException):
    """The process ended: nothing after it reaches the disk."""


class FaultyDisk(Disk):
    """Counts operations from 0.

    Args:
        at: the operation that fails; None for a sound disk.
        error: what it fails with; None: the process ends before it.
        torn: a write's first half is done before.
    """

    def __init__(self, at: int | None = None, error: int | None = None, *, torn: bool = False) -> None:
        self.at, self.error, self.torn = at, error, torn
        self.seen: list[str] = []
        self.dead = False

    def before(self, name: str, *arguments: Any) -> None:
        if self.dead:
            raise Killed
        self.seen.append(name)
        if len(self.seen) - 1 != self.at:
            return
        if self.torn and name == "write":
            descriptor, data = arguments
            os.write(descriptor, bytes(data)[: len(data) // 2])
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error), str(arguments[0]))
        self.dead = True
        raise Killed


def _counted(name: str):
    plain = getattr(Disk, name)

    def operation(self: FaultyDisk, *arguments: Any) -> Any:
        self.before(name, *arguments)
        return plain(self, *arguments)

    return operation


for _name in OPERATIONS:
    setattr(FaultyDisk, _name, _counted(_name))


def files_of(run: Path) -> list[str]:
    return sorted(file.relative_to(run).as_posix() for file in run.rglob("*"))
