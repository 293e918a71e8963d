"""Which device a name means."""

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from crosslayer.errors import UsageError
from crosslayer.training.recipe import Precision

MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda`, `cuda:N` or `mps` means on this machine.

    Raises:
        UsageError: no such device here.
    """
    if name == "auto":
        return (
            torch.device(torch.accelerator.current_accelerator() or "cpu") if has_accelerator() else torch.device("cpu")
        )
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: it is auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: this machine has none; use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device {name}: it is auto, cpu, cuda, cuda:N or mps")
    return device


def has_accelerator() -> bool:
    """Whether there is anything better than the processor."""
    return torch.accelerator.is_available()


def start_accelerator(device_name: str, precision: Precision) -> Accelerator:
    """Devices, mixed precision and processes, as accelerate sees them.

    Raises:
        UsageError: no such device here, or it cannot compute in this precision.
    """
    device = choose_device(device_name)
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("--precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if device.type == "cuda" and device.index is not None and not launched:
        torch.cuda.set_device(device)
    if not launched:
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run of this process may have had others
    return Accelerator(cpu=device.type == "cpu", mixed_precision=MIXED_PRECISION[precision])
