"""A run directory is written by one training at a time."""

import contextlib
import errno
import json
import os
import socket
from pathlib import Path
from typing import Any, final

import msgspec

from crosslayer.console import errors, plain
from crosslayer.errors import UsageError
from crosslayer.files import cannot_write, disk

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

LOCK = ".lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}
"""What file systems without locks answer."""


class _Owner(msgspec.Struct):
    """Who trains."""

    host: str
    process: int


@final
class RunLock:
    """The file `.lock` of a run directory, locked by the system: a process that is killed gives it back.

    Where the file system knows no locks, the file's being there is the lock, and a line says so.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self.descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock, if this object has it not.

        Raises:
            UsageError: another training has it; the sentence names its host and process.
            FailedError: its file cannot be written.
        """
        if self.descriptor is not None:
            return
        try:
            disk.make_folder(self.path.parent)
            while not self._locked_file():
                pass
            assert self.descriptor is not None
            disk.truncate(self.descriptor, 0)
            disk.write(self.descriptor, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode())
        except OSError as error:
            self._close()
            raise cannot_write(self.path, error) from error

    def check_free(self) -> None:
        """Raises UsageError if another training has the lock."""
        if self.descriptor is None and self.path.exists():
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            except OSError:  # not ours to write: what is done next tells why
                return
            try:
                self._lock(descriptor, told=False)
            finally:
                os.close(descriptor)

    def release(self) -> None:
        """Gives the lock back; its file goes while it is still ours."""
        if self.descriptor is not None:
            try:
                with contextlib.suppress(OSError):  # the next training takes a file that nobody has locked
                    disk.remove(self.path)
            finally:
                self._close()

    def _locked_file(self) -> bool:
        """Opens and locks the file; false if its owner removed it in between."""
        self.descriptor = disk.open(self.path)
        try:
            self._lock(self.descriptor, told=True)
        except UsageError:
            self._close()
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self.descriptor), self.path.stat()):
                return True
        self._close()
        return False

    def _lock(self, descriptor: int, *, told: bool) -> None:
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, "no locks")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._taken(_owner(descriptor)) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            owner = _owner(descriptor)
            if owner and _may_live(owner):
                raise self._taken(owner, f"; if that has ended, remove {self.path}") from None
            if told:
                errors.print(f"the file system of {self.path.parent} has no locks: {LOCK} alone keeps others out")

    def _taken(self, owner: _Owner | None, more: str = "") -> UsageError:
        who = f"process {owner.process} on {plain(owner.host)[:80]}" if owner else "another process"
        return UsageError(
            f"run {self.path.parent} is being trained by {who}; wait for it, or give another --output{more}"
        )

    def _close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def _owner(descriptor: int) -> _Owner | None:
    """Who wrote the file; none where it is not written yet, or is another's."""
    content: Any = os.pread(descriptor, 4096, 0)
    try:
        return msgspec.json.decode(content, type=_Owner)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _may_live(owner: _Owner) -> bool:
    """Whether a process may still be there: another machine's may, one of this machine is asked."""
    if owner.host != socket.gethostname():
        return True
    try:
        os.kill(owner.process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
