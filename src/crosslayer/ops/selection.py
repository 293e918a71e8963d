"""Which implementation of the ops runs: the reference in plain PyTorch, or the fused kernels.

`auto`, the default, takes the fused kernels where they can run (CUDA and Triton) and the reference elsewhere, and
says once which. The choice is read when an op is called or traced, and is no part of any model's state: a graph that
was compiled or exported keeps what it was traced with (torch.compile notices a change and traces again).
"""

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

Implementation = Literal["auto", "reference", "fused"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("auto", "reference", "fused")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run in Triton's interpreter, on any device: for tests."""

_chosen: Implementation = "auto"
_said: set[str] = set()
_logger = logging.getLogger(__name__)


def set_implementation(name: Implementation) -> None:
    """Sets the implementation of all ops from here on, in the whole process.

    Args:
        name: `auto`, `reference`, or `fused`, which raises at an op that it cannot run for.

    Raises:
        ValueError: there is no such implementation.
    """
    global _chosen
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"unknown implementation {name!r}; there are: {', '.join(IMPLEMENTATIONS)}")
    _chosen = name


def get_implementation() -> Implementation:
    """What was set last."""
    return _chosen


@contextlib.contextmanager
def implementation(name: Implementation) -> Iterator[None]:
    """`set_implementation` for the length of a `with` block.

    Raises:
        ValueError: there is no such implementation.
    """
    before = _chosen
    set_implementation(name)
    try:
        yield
    finally:
        set_implementation(before)


def takes_fused(op: str, x: Tensor, obstacle: str | None = None) -> bool:
    """Whether `op` is to run fused on maps like x.

    Args:
        op: its name, for messages.
        x: the map that decides: its device and dtype.
        obstacle: why these arguments cannot be taken by the fused op, if they cannot.

    Raises:
        ValueError: fused was asked for where it cannot run.
    """
    if _chosen == "reference":
        return False
    obstacle = obstacle or general_obstacle(x)
    if _chosen == "fused" and obstacle:
        raise ValueError(f'{op} cannot run fused: {obstacle}; use set_implementation("auto") or "reference"')
    fused = obstacle is None and (_chosen == "fused" or x.is_cuda)
    if _chosen == "auto":
        say(f"ops on {x.device.type} run {'fused' if fused else 'as plain PyTorch'}")
    return fused


def general_obstacle(x: Tensor) -> str | None:
    """Why no fused op can run on maps like x, if none can."""
    if not HAS_TRITON:
        return "triton is not installed"
    if not (x.is_cuda or INTERPRETED):
        return (
            f"tensors are on {x.device.type}, and Triton's kernels need CUDA (or its interpreter, TRITON_INTERPRET=1)"
        )
    if x.dtype not in DTYPES:
        return f"its kernels do not take {x.dtype}"
    return None


@torch.compiler.assume_constant_result
def say(message: str) -> None:
    """Logs what is said for the first time; a graph being traced sees nothing of it."""
    if message not in _said:
        _said.add(message)
        _logger.info(message)
