"""Runs on this machine: so many at once, each in a process of its own."""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from crosslayer.files import write_text
from crosslayer.processes import end_with_parent
from crosslayer.reproduce.plan import Planned
from crosslayer.training.interruption import InterruptedRun, Interruption

LOGS = "logs"
THREADS = ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
"""Variables that say how many threads compute, and how many processes compile."""
PATIENCE = 0.2
"""Seconds between looks at the processes."""
Tell = Callable[[str], None]


class Failure(NamedTuple):
    """A run that did not end well."""

    run: Planned
    reason: str


class Active(NamedTuple):
    """A run under way."""

    run: Planned
    process: subprocess.Popen[bytes]
    log: Path
    begun: float
    asked: bool = False
    """Whether it was asked to save and stop."""


def run_locally(runs: Sequence[Planned], jobs: int, launch: Sequence[str], tell: Tell) -> list[Failure]:
    """Trains all runs; one that fails does not stop the others.

    Args:
        runs: what to train.
        jobs: how many at once; they share processor cores, and take GPUs in turn.
        launch: further words for `crosslayer train`.
        tell: is told what starts and ends.

    Raises:
        InterruptedRun: a signal came; it was passed on and all runs under way have saved.
    """
    waiting, failures, active = list(runs), [], dict[int, Active]()
    jobs = min(jobs, len(runs))
    if advice := on_sharing(jobs):
        tell(advice)
    with Interruption() as interruption:
        try:
            while active or (waiting and not interruption.number):
                for slot in range(jobs):
                    if slot not in active and waiting and not interruption.number:
                        active[slot] = start(waiting.pop(0), slot, jobs, launch)
                        tell(f"[{len(runs) - len(waiting)}/{len(runs)}] begins: {active[slot].run.name}")
                time.sleep(PATIENCE)
                if interruption.number:
                    stop(active)
                for slot in [slot for slot, each in active.items() if each.process.poll() is not None]:
                    failures += ended(active.pop(slot), tell)
        finally:
            for each in active.values():
                each.process.kill()
    if interruption.number:
        raise InterruptedRun(interruption.number, "stopped by a signal; the same command goes on with what is left")
    return failures


def start(run: Planned, slot: int, jobs: int, launch: Sequence[str]) -> Active:
    """A process of its own session, so that a terminal's Ctrl-C reaches it through us only."""
    log = run.path.parents[1] / LOGS / f"{run.name}.log"
    write_text(log, "")
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "crosslayer", *run.words(), *launch],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | share_of_machine(slot, jobs),
            start_new_session=True,
            preexec_fn=functools.partial(end_with_parent, os.getpid(), signal.SIGTERM),  # it saves, then ends
        )
    return Active(run, process, log, time.monotonic())


def share_of_machine(slot: int, jobs: int) -> dict[str, str]:
    """Environment variables that give each of `jobs` its part of the cores, and its GPU where there are several."""
    cores = str(max(1, own_cores() // jobs))
    share = {name: cores for name in THREADS if name not in os.environ}
    if jobs > 1 and torch.cuda.device_count() > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
        share["CUDA_VISIBLE_DEVICES"] = str(slot % torch.cuda.device_count())
    return share


def on_sharing(jobs: int) -> str | None:
    """What to know where several runs share a GPU."""
    gpus = torch.cuda.device_count()
    if not 0 < gpus < jobs:
        return None
    return f"{jobs} runs share {gpus} GPU{'s' * (gpus > 1)}: at the same time where NVIDIA's MPS runs, else in turn"


def own_cores() -> int:
    """Cores that this process may use, which a container or a scheduler may have made fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stop(active: dict[int, Active]) -> None:
    """Asks every process to save and stop, once: a second signal would end it unsaved."""
    for slot, each in active.items():
        if not each.asked:
            each.process.terminate()
            active[slot] = each._replace(asked=True)


def ended(active: Active, tell: Tell) -> list[Failure]:
    """Tells how a run ended; a failure, if it did not end well."""
    if active.asked:
        return []
    seconds = time.monotonic() - active.begun
    if active.process.returncode == 0:
        tell(f"  done in {seconds:,.0f} s: {active.run.name}")
        return []
    code = active.process.returncode
    reason = f"ended by signal {-code}" if code < 0 else _last_line(active.log) or f"exit code {code}"
    tell(f"  failed after {seconds:,.0f} s: {active.run.name}: {reason} (log: {active.log})")
    return [Failure(active.run, reason)]


def _last_line(log: Path) -> str:
    """What a failed command said last."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("crosslayer: ") if lines else ""
