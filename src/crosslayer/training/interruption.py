"""Ctrl-C, SIGTERM, and SIGHUP of a terminal that closes: a training saves between two steps, all else ends."""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

SIGNALS = tuple(
    number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None
)


class InterruptedRun(Exception):  # noqa: N818  # not an error: what was asked for happened
    """Training stopped on a signal, after saving."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class StoppedCommand(KeyboardInterrupt):
    """A command ends on a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class CommandSignals:
    """How a command ends on signals: in one line, whatever it is doing.

    While it starts, it ends at once: libraries that are being imported turn exceptions into others of their own. Later
    the first signal raises StoppedCommand, so that files which are being written go, and a second one ends at once.

    Args:
        starting: whether the process is the command's own, and starts.
    """

    def __init__(self, *, starting: bool) -> None:
        self.starting, self.heard = starting, False
        self.before: dict[int, Any] = {}

    def heed(self) -> None:
        """Begins to heed signals, but for those that are ignored, as `nohup` has SIGHUP ignored."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self.before[number] = signal.signal(number, self)

    def restore(self) -> None:
        """Heeds them as before."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """A signal came."""
        if self.starting or self.heard:
            self._end(number)
        self.heard = True
        raise StoppedCommand(number)

    def _end(self, number: int) -> NoReturn:
        words = "ended by a second signal" if self.heard else f"stopped by {signal.Signals(number).name}"
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"crosslayer: {words}\n".encode())
        os._exit(128 + number)


class Interruption:
    """While entered, the first signal is only remembered; a second one has its usual effect, of a command's at once.

    Python gives signals to the main thread: in any other, nothing is changed.
    """

    def __init__(self) -> None:
        self.number = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.before[number] = signal.signal(number, self.remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def remember(self, number: int, frame: FrameType | None) -> None:
        """Notes the signal."""
        self.number = number
        for each, handler in self.before.items():
            if isinstance(handler, CommandSignals):
                handler.heard = True
            signal.signal(each, handler)
