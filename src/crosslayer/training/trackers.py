"""Experiment trackers that a run is told to as well, through accelerate: tensorboard, wandb, mlflow, trackio and more.

None unless asked for. A tracker sees a row per epoch, as metrics.jsonl has it, and every few steps the mean figures of
these, below `step/`. All are told by optimizer step.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType

from crosslayer.console import errors
from crosslayer.errors import FailedError, UsageError, reason
from crosslayer.mechanisms.registry import unknown_name
from crosslayer.training.recipe import TrainingRecipe
from crosslayer.training.records import Row
from crosslayer.training.task import Task

_PROJECT = "crosslayer"


def check_trackers(names: Sequence[str]) -> None:
    """Raises UsageError for a tracker that accelerate does not know, or that is not installed."""
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UsageError(f"--log-with: {unknown_name('tracker', name, LOGGER_TYPE_TO_CLASS)}")
        own = name in LoggerType  # others were registered by the user
        if own and LoggerType(name) not in get_available_trackers():
            raise UsageError(f"--log-with {name} needs {name}: pip install {name.replace('_', '-')}")


@final
class Trackers:
    """Passes a run's figures on; the main process's only.

    Args:
        names: of trackers that `check_trackers` let pass; each once.
        every: steps whose mean figures are told together.
        task: what the figures are made by.
        recipe: what the trackers show as the run's configuration.
        steps_per_epoch: of the run.
    """

    def __init__(
        self, names: Sequence[str], every: int, task: Task[Any], recipe: TrainingRecipe, steps_per_epoch: int
    ) -> None:
        self.names, self.every, self.task = tuple(dict.fromkeys(names)), every, task
        self.recipe, self.steps_per_epoch = recipe, steps_per_epoch
        self.started: list[GeneralTracker] = []
        self.sums: dict[str, float] = {}
        self.steps = 0

    def start(self, run: Path, folder: Path, step: int) -> None:
        """Starts all.

        Args:
            run: whose name the run has there.
            folder: for those that write files.
            step: that the run goes on from.

        Raises:
            FailedError: one did not start, say for want of a login.
        """
        told = {key: _plain(value) for key, value in dataclasses.asdict(self.recipe).items()}
        for name in self.names:
            try:
                tracker = _new_tracker(name, run.resolve().name, folder, step)
                tracker.start()
                self.started.append(tracker)
                tracker.store_init_configuration(told)
            except Exception as error:  # a tracker's own errors are of any kind
                self.close()
                raise FailedError(
                    f"--log-with {name} did not start: {reason(error)}; mend that, then go on with --resume {run}"
                ) from error

    def step(self, step: int, measured: Mapping[str, float]) -> None:
        """What a step was measured by; at every so many steps, their mean is told."""
        if not self.started:
            return
        self.steps += 1
        for name, value in measured.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if step % self.every:
            return
        means = self.task.metrics(self.sums, self.steps)
        rate = self.recipe.lr * self.task.rate_factor(step - 1, self.steps_per_epoch)
        self._tell({name.replace("train/", "step/"): value for name, value in means.items()} | {"step/lr": rate}, step)
        self.sums, self.steps = {}, 0

    def epoch(self, row: Row) -> None:
        """An epoch's row; what is None in it is left out."""
        self._tell({name: value for name, value in row.items() if name != "step" and value is not None}, row["step"])

    def close(self) -> None:
        """Ends all."""
        for tracker in self.started:
            with _tolerated(tracker):
                tracker.finish()
        self.started = []

    def _tell(self, values: dict[str, Any], step: int) -> None:
        """A tracker that fails is told no more: the run is worth more than what is said of it elsewhere."""
        for tracker in list(self.started):
            with _tolerated(tracker, lambda tracker=tracker: self.started.remove(tracker)):
                tracker.log(values, step=step)


@contextlib.contextmanager
def _tolerated(tracker: Any, then: Callable[[], object] = lambda: None) -> Iterator[None]:
    """What a tracker raises is a line, and then something is done."""
    try:
        yield
    except Exception as error:  # a tracker's own errors are of any kind
        errors.print(f"--log-with {tracker.name} failed and is told no more: {reason(error)}")
        then()


def _new_tracker(name: str, run_name: str, folder: Path, step: int) -> GeneralTracker:
    """A tracker that shows the run under its name, where it has a word for that."""
    named: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": step + 1},  # what was told of later steps, before a kill, is void
        "wandb": {"name": run_name},
        "mlflow": {"run_name": run_name},
        "trackio": {"name": run_name, "resume": "allow"},
    }
    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    place = (str(folder),) if kind.requires_logging_directory else ()
    return kind(_PROJECT, *place, **named.get(name, {}))


def _plain(value: Any) -> Any:
    """A recipe's value as trackers take it."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else value
