"""What runs in a process that holds one configuration, works when it is told to, and sleeps in between."""

import contextlib
import math
import os
import signal
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from crosslayer.allocation import keep_freed_memory
from crosslayer.benchmark.configuration import Configuration, Precision
from crosslayer.benchmark.cost import step_cost
from crosslayer.benchmark.limits import measure_limits, synchronise
from crosslayer.benchmark.memory import peak_of_tensors, peak_resident_set, resident_set, saved_for_backward
from crosslayer.benchmark.networks import build_network
from crosslayer.benchmark.workload import Step, step_of
from crosslayer.fused import fuse

WARM_UP = 2
"""Steps after the first that are not counted either."""


class Worker:
    """Answers orders."""

    step: Step
    step_seconds: float

    def limits(self, device: str, precision: Precision) -> dict[str, Any]:
        """What the device can do."""
        return measure_limits(device, precision)._asdict()

    def ready(self) -> dict[str, Any]:
        """Says that the process has started."""
        return {}

    def prepare(self, chosen: Configuration) -> dict[str, Any]:
        """Builds and warms up; tells what is not speed: compile time, memory, cost."""
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        model = build_network(chosen.backbone, chosen.mechanism, chosen.num_classes)
        cost = step_cost(model, chosen)
        if chosen.impl == "fused":
            fuse(model)
        self.step = step_of(model, chosen)
        before = resident_set()
        first = self.run(1)
        self.step_seconds = self.run(WARM_UP) / WARM_UP
        memory = self.memory(before)
        self.rest()
        return {
            "compile_seconds": max(0.0, first - self.step_seconds) if chosen.compiled == "compiled" else None,
            **memory,
            **cost._asdict(),
            "threads": torch.get_num_threads(),
        }

    def memory(self, before: int) -> dict[str, int | None]:
        """Bytes: the peak of the process or the GPU, of tensors alone, and what is saved for backward."""
        tensors = peak_of_tensors(self.step)
        on_gpu = self.step.device.type == "cuda"
        peak = tensors if on_gpu else peak_resident_set(self.step) - before
        return {"peak": peak, "tensors": tensors, "saved": saved_for_backward(self.step)}

    def measure(self, seconds: float) -> dict[str, Any]:
        """Seconds per step, over as many steps as fill the time; one step before them is not counted."""
        self.run(1)
        steps = max(1, math.ceil(seconds / self.step_seconds))
        self.step_seconds = self.run(steps) / steps
        self.rest()
        return {"step_seconds": self.step_seconds, "steps": steps}

    def rest(self) -> None:
        """Gives back what a GPU's allocator keeps, since the next worker may need it."""
        if self.step.device.type == "cuda":
            torch.cuda.empty_cache()

    def run(self, steps: int) -> float:
        """Seconds that so many steps take."""
        synchronise(self.step.device)
        begun = time.perf_counter()
        for _ in range(steps):
            self.step()
        synchronise(self.step.device)
        return time.perf_counter() - begun


def serve(channel: Connection, folder: str, threads: int | None) -> None:
    """Answers orders until there are no more: the target of a process.

    Args:
        channel: where orders, names with arguments, come from, and answers go.
        folder: for compile caches, and for a log of all that is printed.
        threads: threads on the CPU, if not PyTorch's choice.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to act on
    with (Path(folder) / "log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "inductor")
    keep_freed_memory()  # as all commands do
    if threads is not None:
        torch.set_num_threads(threads)
    worker = Worker()
    with contextlib.suppress(EOFError):  # the parent is gone
        while True:
            order, arguments = channel.recv()
            channel.send(answer(worker, order, arguments))


def answer(worker: Worker, order: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What an order gives, or what went wrong; the whole story goes to the log."""
    try:
        return getattr(worker, order)(**arguments)
    except Exception as error:
        traceback.print_exc()
        reason = str(error).strip() or type(error).__name__
        return {"error": reason.splitlines()[0]}
