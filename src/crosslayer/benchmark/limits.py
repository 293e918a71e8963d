"""What the device can do at most: how fast it copies, and how fast it multiplies matrices."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from crosslayer.benchmark.configuration import Precision

BUDGET = 0.4
"""Seconds for each measurement."""
COPIED = {"cpu": 2**28, "cuda": 2**30}
"""Bytes copied at once: more than any cache holds."""
SIDE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Limits(NamedTuple):
    """Of one device, in one precision."""

    bytes_per_second: float
    operations_per_second: float


def measure_limits(device_name: str, precision: Precision) -> Limits:
    """The best of many copies, counted as read and written, and of many products of square matrices.

    On a GPU fp32 products may use TF32, as PyTorch's convolutions do by default.
    """
    device = torch.device(device_name)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    source = torch.ones(COPIED.get(device.type, 2**28), dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    copying = _best_time(lambda: target.copy_(source), device)
    side = SIDE.get(device.type, 2048)
    a = torch.randn(side, side, device=device).to(DTYPES[precision])
    product = torch.empty_like(a)
    multiplying = _best_time(lambda: torch.mm(a, a, out=product), device)
    return Limits(2 * source.numel() / copying, 2 * side**3 / multiplying)


def _best_time(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest repetition within the budget, after one to warm up."""
    work()
    best, end = float("inf"), time.perf_counter() + BUDGET
    while best == float("inf") or time.perf_counter() < end:
        synchronise(device)
        begun = time.perf_counter()
        work()
        synchronise(device)
        best = min(best, time.perf_counter() - begun)
    return best


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
