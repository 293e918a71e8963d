"""A process that holds one configuration and works when it is told to: `python -m crosslayer.benchmark.worker`.

It reads orders from standard input and answers on standard output, a line of JSON each. Between orders it sleeps.
"""

import json
import math
import os
import signal
import sys
import time
import traceback
from typing import Any

import torch

from crosslayer.benchmark.configuration import Configuration
from crosslayer.benchmark.cost import step_cost
from crosslayer.benchmark.implementations import set_implementation
from crosslayer.benchmark.limits import measure_limits, synchronise
from crosslayer.benchmark.memory import peak_of_tensors, peak_resident_set, resident_set, saved_for_backward
from crosslayer.benchmark.networks import build_network
from crosslayer.benchmark.workload import STEPS, Step

WARM_UP = 2
"""Steps after the first that are not counted either."""


class Worker:
    """Answers orders."""

    step: Step
    step_seconds: float

    def limits(self, device: str, precision: Any, threads: int | None) -> dict[str, Any]:
        """What the device can do."""
        set_threads(threads)
        return measure_limits(device, precision)._asdict()

    def prepare(self, configuration: dict[str, Any], threads: int | None) -> dict[str, Any]:
        """Builds and warms up; tells what is not speed: compile time, memory, cost."""
        set_threads(threads)
        chosen = Configuration(**configuration)
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        model = build_network(chosen.backbone, chosen.mechanism, chosen.num_classes)
        set_implementation("reference")
        cost = step_cost(model, chosen)
        set_implementation(chosen.impl)
        self.step = STEPS[chosen.mode](model, chosen)
        before = resident_set()
        first = self.run(1)
        self.step_seconds = self.run(WARM_UP) / WARM_UP
        return {
            "compile_seconds": max(0.0, first - self.step_seconds) if chosen.compiled == "compiled" else None,
            **self.memory(before),
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
        if self.step.device.type == "cuda":
            torch.cuda.empty_cache()  # what the next worker may need
        return {"step_seconds": self.step_seconds, "steps": steps}

    def run(self, steps: int) -> float:
        """Seconds that so many steps take."""
        synchronise(self.step.device)
        begun = time.perf_counter()
        for _ in range(steps):
            self.step()
        synchronise(self.step.device)
        return time.perf_counter() - begun


def set_threads(threads: int | None) -> None:
    """The number of threads on the CPU, if one was asked for."""
    if threads is not None:
        torch.set_num_threads(threads)


def answer(worker: Worker, order: dict[str, Any]) -> dict[str, Any]:
    """What an order gives, or what went wrong; the whole story goes to standard error."""
    try:
        return getattr(worker, order.pop("order"))(**order)
    except Exception as error:
        traceback.print_exc()
        reason = str(error).strip() or type(error).__name__
        return {"error": reason.splitlines()[0]}


def main() -> None:
    """Answers until there are no more orders."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to act on
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    worker = Worker()
    print(json.dumps({"ready": True}), file=channel, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(worker, json.loads(line))), file=channel, flush=True)


if __name__ == "__main__":
    main()
