"""Which implementation of the ops runs: the reference in plain PyTorch, or the fused kernels.

`auto`, the default, takes the fused kernels where they can run (on CUDA those in Triton; on the CPU, for channels-last
maps, those in C++) and the reference elsewhere and in what is exported, and says once which. The choice is read when
an op is called or traced, and is no part of any model's state: a graph that was compiled or exported keeps what it was
traced with (torch.compile notices a change and traces again).
"""

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from crosslayer.ops.fused.layout import channels_last
from crosslayer.ops.native import compiler

Implementation = Literal["auto", "reference", "fused"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("auto", "reference", "fused")
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NATIVE_DTYPES = (torch.float32, torch.bfloat16, torch.float64)
HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = False
"""Whether Triton's kernels run in its interpreter, on any device: for tests, which set TRITON_INTERPRET=1 too."""

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
    if _chosen == "auto" and unasked(x):
        return False
    obstacle = obstacle or general_obstacle(x)
    if _chosen == "fused" and obstacle:
        raise ValueError(f'{op} cannot run fused: {obstacle}; use set_implementation("auto") or "reference"')
    if _chosen == "auto":
        say(f"ops on {x.device.type} run {f'as plain PyTorch: {obstacle}' if obstacle else 'fused'}")
    return obstacle is None


def unasked(x: Tensor) -> bool:
    """Whether fused ops run on maps like x only where they are asked for: elsewhere they would gain nothing.

    That is in exported graphs, which others are to understand; in Triton's interpreter; and where the CPU's kernels
    would first have to lay the maps out with their channels side by side.
    """
    return torch.compiler.is_exporting() or (not x.is_cuda and (INTERPRETED or not channels_last(x)))


def general_obstacle(x: Tensor) -> str | None:
    """Why no fused op can run on maps like x, if none can."""
    triton = x.is_cuda or INTERPRETED
    if triton and not HAS_TRITON:
        return "triton is not installed"
    if not triton and x.device.type != "cpu":
        return f"tensors are on {x.device.type}, and there are kernels for CUDA and for the CPU only"
    if x.dtype not in (TRITON_DTYPES if triton else NATIVE_DTYPES):
        return f"its kernels do not take {x.dtype} there"
    return None if triton else native_obstacle()


@torch.compiler.assume_constant_result
def native_obstacle() -> str | None:
    """Why nothing can be compiled for this CPU, if so; a graph being traced sees nothing of the compiler."""
    return compiler.obstacle()


@torch.compiler.assume_constant_result
def say(message: str) -> None:
    """Logs what is said for the first time; a graph being traced sees nothing of it."""
    if message not in _said:
        _said.add(message)
        _logger.info(message)
