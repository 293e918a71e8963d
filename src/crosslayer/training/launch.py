"""Where a run goes, what it runs on, and the processes that share it."""

import dataclasses
import os
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from crosslayer.console import errors
from crosslayer.data.images import LoaderName
from crosslayer.errors import UsageError
from crosslayer.training.recipe import LARGEST, Precision, check_bounds


@dataclasses.dataclass(frozen=True)
class Launch:
    """Where a run goes and what it runs on: nothing here changes what is learned, up to the device's rounding."""

    output: str | None = None
    """Run directory to make [default: runs/RECIPE-BACKBONE-MECHANISM-seedN]."""
    overwrite: bool = False
    """Replace the run that the output directory holds."""
    resume: str | None = None
    """Run directory to go on with; of its recipe only --epochs, --max-steps and --patience may be changed."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    workers: int = 4
    """Threads that decode images, or processes where crops are resized; 0 decodes between the steps."""
    loader: LoaderName = "auto"
    """Keep decoded images on the device, stream them, or decide by size (2 GiB)."""

    save_steps: int | None = None
    """Save every so many optimizer steps within an epoch too; every epoch's end and a signal save anyway."""
    log_with: tuple[str, ...] = ()
    """Trackers to tell the run to as well: tensorboard, wandb, mlflow, trackio, … (whatever accelerate knows)."""
    log_steps: int = 20
    """Steps between what trackers are told within an epoch."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 0), ("save_steps", 1), ("log_steps", 1)):
            check_bounds(name, getattr(self, name), least, MOST_WORKERS if name == "workers" else LARGEST)


MOST_WORKERS = 1024
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda`, `cuda:N` or `mps` means on this machine.

    Raises:
        UsageError: no such device here.
    """
    if name == "auto":
        return (
            torch.device(torch.accelerator.current_accelerator() or "cpu")
            if _has_accelerator()
            else torch.device("cpu")
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


def _has_accelerator() -> bool:
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
    if precision == "bf16" and device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        errors.print("--precision bf16: this processor has no bf16 arithmetic and imitates it, much slower than fp32")
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if device.type == "cuda" and device.index is not None and not launched:
        torch.cuda.set_device(device)
    if not launched:
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run of this process may have had others
    return Accelerator(cpu=device.type == "cpu", mixed_precision=MIXED_PRECISION[precision])


def over_processes(accelerator: Accelerator, values: Tensor, how: Literal["sum", "mean"] = "sum") -> Tensor:
    """The sum or mean of a tensor over all processes, in each of them."""
    if accelerator.num_processes == 1:
        return values
    reduced = accelerator.reduce(values, how)
    assert isinstance(reduced, Tensor)
    return reduced


def largest_of_processes(accelerator: Accelerator, value: int) -> int:
    """The largest of all processes' numbers, in each of them."""
    if accelerator.num_processes == 1:
        return value
    gathered = accelerator.gather(torch.tensor([value], device=accelerator.device))
    assert isinstance(gathered, Tensor)
    return int(gathered.max())
