"""Groups are measured: every configuration in a process of its own, in turn, over several rounds."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from crosslayer.benchmark.configuration import Configuration, Group, Plan
from crosslayer.benchmark.limits import Limits
from crosslayer.benchmark.process import WorkerProcess
from crosslayer.errors import FailedError

Tell = Callable[[str], None]


@dataclasses.dataclass
class Measurement:
    """What is known of one configuration."""

    configuration: Configuration
    facts: dict[str, Any]
    """The worker's answer to `prepare`."""
    step_seconds: list[float] = dataclasses.field(default_factory=list)
    """One number for each round."""
    steps: int = 0
    error: str | None = None


def limits_of(plan: Plan, device: str) -> dict[str, Limits]:
    """What the device can do, in every precision of the plan.

    Raises:
        FailedError: it could not be measured.
    """
    with WorkerProcess(device, plan.threads) as worker:
        limits: dict[str, Limits] = {}
        for precision in plan.precisions:
            answer = worker.ask("limits", device=device, precision=precision)
            if "error" in answer:
                raise FailedError(f"the limits of {device} cannot be measured: {answer['error']}")
            limits[precision] = Limits(**answer)
        return limits


def measure_group(group: Group, plan: Plan, tell: Tell) -> list[Measurement]:
    """All configurations of a group; only one works at a time, the others sleep.

    Rounds go through the group forth and back in turn, so that a machine that slows down or speeds up does it to all.
    """
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(WorkerProcess(each.device, plan.threads)) for each in group]
        for worker in workers:
            worker.ask("ready")  # so that no start disturbs another's compilation; a death is told by what is next
        measured = [prepare(worker, configuration, tell) for worker, configuration in zip(workers, group, strict=True)]
        pairs = list(zip(workers, measured, strict=True))
        for number in range(plan.rounds):
            for worker, measurement in in_turn(pairs, number):
                take(worker.ask("measure", seconds=plan.seconds), measurement)
    return measured


def prepare(worker: WorkerProcess, configuration: Configuration, tell: Tell) -> Measurement:
    """Has a worker build, compile and warm up."""
    tell(f"preparing {configuration}")
    facts = worker.ask("prepare", chosen=configuration)
    return Measurement(configuration, facts, error=facts.get("error"))


def in_turn(pairs: list[tuple[WorkerProcess, Measurement]], number: int) -> Iterator[tuple[WorkerProcess, Measurement]]:
    """A round's order; what has failed is left out."""
    for pair in pairs if number % 2 == 0 else reversed(pairs):
        if pair[1].error is None:
            yield pair


def take(answer: dict[str, Any], measurement: Measurement) -> None:
    """Notes what a turn gave."""
    if "error" in answer:
        measurement.error = answer["error"]
        return
    measurement.step_seconds.append(answer["step_seconds"])
    measurement.steps += answer["steps"]
