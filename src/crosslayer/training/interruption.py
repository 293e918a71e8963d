"""SIGTERM and Ctrl-C: remembered, and acted upon between two steps."""

import signal
from types import FrameType, TracebackType
from typing import Any


class InterruptedRun(Exception):  # noqa: N818  # not an error: what was asked for happened
    """Training stopped on a signal, after saving."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Interruption:
    """While entered, the first SIGTERM or SIGINT is only remembered; a second one has its usual effect."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.number = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in self.SIGNALS:
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
            signal.signal(each, handler)
