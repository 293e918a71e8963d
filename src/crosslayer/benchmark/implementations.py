"""Which implementation of the ops a process uses."""

from collections.abc import Callable
from typing import Any

from crosslayer import ops
from crosslayer.errors import UsageError


def switch() -> Callable[[str], Any] | None:
    """What sets the implementation of all ops at once, where there is more than the reference."""
    return getattr(ops, "set_implementation", None)


def check_implementation(impl: str) -> None:
    """Raises UsageError where the ops have no such implementation."""
    if impl == "fused" and switch() is None:
        raise UsageError("--impls fused: the ops of this version have their reference only; use auto or reference")


def set_implementation(impl: str) -> None:
    """Has this process's ops compute so from now on."""
    check_implementation(impl)
    if (choose := switch()) is not None:
        choose(impl)
