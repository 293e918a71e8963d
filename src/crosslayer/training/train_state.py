"""All that a run works with, checked before anything is written; and what it writes: checkpoints, scalars, summary."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator

from crosslayer.console import console
from crosslayer.data.stream import Shares, TrainingStream
from crosslayer.errors import FailedError
from crosslayer.training import checkpoint
from crosslayer.training.checkpoint import Progress
from crosslayer.training.environment import describe_environment
from crosslayer.training.launch import Launch, start_accelerator
from crosslayer.training.learner import Learner, build_learner, build_model, check_compilation
from crosslayer.training.recipe import TrainingRecipe
from crosslayer.training.records import Row
from crosslayer.training.run_directory import TENSORBOARD, RunDirectory
from crosslayer.training.scalars import ScalarLog
from crosslayer.training.schedule import out_of_patience
from crosslayer.training.task import SCORES, Task, load_task
from crosslayer.training.trackers import Trackers, check_trackers


class TrainState(NamedTuple):
    """What the loop works with."""

    recipe: TrainingRecipe
    task: Task[Any]
    run: RunDirectory
    accelerator: Accelerator
    learner: Learner
    stream: TrainingStream[Any]
    progress: Progress
    save_steps: int | None
    """Save every so many steps within an epoch."""
    trackers: Trackers
    begun: float
    """When the clock would have been started, had all earlier sittings been part of this one."""


def prepare(name: str, recipe: TrainingRecipe, launch: Launch) -> TrainState:
    """Checks everything that can be checked, then makes the run directory (or opens the resumed one)."""
    run = RunDirectory(launch.resume or launch.output or _default_output(name, recipe))
    try:
        return _prepare_in(run, name, recipe, launch)
    except BaseException:
        run.lock.release()
        raise


def _prepare_in(run: RunDirectory, name: str, recipe: TrainingRecipe, launch: Launch) -> TrainState:
    """The same, in a run directory whose lock it takes and keeps."""
    if launch.resume:
        run.check_begun()
        run.lock.check_free()
    else:
        run.check_free(launch.overwrite)
    check_trackers(launch.log_with)
    build_model(recipe, num_classes=2)  # a wrong name is told before any data is read
    accelerator = start_accelerator(launch.device, recipe.precision)
    check_compilation(recipe, accelerator.device)
    if launch.resume and accelerator.is_main_process:
        run.lock.acquire()
    task = load_task(name, recipe, launch, accelerator, run.read()[2] if launch.resume else None)
    stream = TrainingStream(
        task.images,
        batch_size=recipe.batch_size,
        shares=own_shares(accelerator, recipe.accumulate),
        seed=recipe.seed,
        paired=task.paired,
    )
    state = _latest_state(run) if launch.resume else None
    learner = build_learner(recipe, len(task.dataset_info.classes), accelerator, run.path, state)
    if accelerator.is_main_process:
        run.lock.acquire()
        if not launch.resume and not launch.overwrite and run.holds_run():
            run.check_free(overwrite=False)  # it was, when this began
        environment = describe_environment(accelerator.device, accelerator.num_processes)
        run.begin(name, recipe, task.dataset_info, environment, resumed=bool(launch.resume))
        announce(recipe, task, run, stream, accelerator)
        for part in accelerator.unwrap_model(learner.model).modules():
            for attachment in getattr(part, "attachments", ()):
                console.print(f"  {attachment}")
    progress = Progress(**state["progress"]) if state else Progress()
    trackers = Trackers(launch.log_with, launch.log_steps, task, recipe, stream.steps_per_epoch)
    if accelerator.is_main_process:
        run.go_on(progress)
        trackers.start(run.path, run / TENSORBOARD, progress.step)
    begun = time.monotonic() - progress.wall_seconds
    return TrainState(recipe, task, run, accelerator, learner, stream, progress, launch.save_steps, trackers, begun)


def own_shares(accelerator: Accelerator, accumulate: int) -> Shares:
    """This process's parts of every batch."""
    return Shares(accelerator.process_index * accumulate, accumulate, accelerator.num_processes * accumulate)


def _default_output(name: str, recipe: TrainingRecipe) -> Path:
    """Where a run goes that was given no place."""
    return Path("runs") / f"{name}-{recipe.backbone}-{recipe.mechanism}-seed{recipe.seed}"


def announce(
    recipe: TrainingRecipe, task: Task[Any], run: RunDirectory, stream: TrainingStream[Any], accelerator: Accelerator
) -> None:
    """Says what is about to happen."""
    console.print(
        f"{recipe.backbone} + {recipe.mechanism} on {recipe.data}: {task.describe()}, {stream.steps_per_epoch} steps "
        f"per epoch, {accelerator.device}, {recipe.precision} → {run.path}"
    )


def _latest_state(run: RunDirectory) -> dict[str, Any] | None:
    """The last checkpoint of a run, if it has any."""
    steps = checkpoint.saved_steps(run.checkpoints)
    return checkpoint.load_checkpoint(checkpoint.path_of(run.checkpoints, steps[-1])) if steps else None


def save(state: TrainState) -> None:
    """A checkpoint, by the main process."""
    accelerator, learner = state.accelerator, state.learner
    state.progress.wall_seconds = time.monotonic() - state.begun
    if accelerator.is_main_process:
        raw = accelerator.unwrap_model(learner.model).state_dict()
        checkpoint.save_checkpoint(
            state.run.checkpoints,
            state.progress,
            learner.ema.module.state_dict() if learner.ema else raw,
            learner.optimizer.state_dict(),
            accelerator.scaler.state_dict() if accelerator.scaler is not None else {},
            raw if learner.ema else None,
        )


@contextlib.contextmanager
def scalar_log(state: TrainState) -> Iterator[Callable[[Row], None]]:
    """A function that adds an epoch's row to TensorBoard's file; the main process's only.

    Raises:
        FailedError: the file could not be written.
    """
    if not state.accelerator.is_main_process:
        yield lambda _: None
        return
    with closing(ScalarLog(state.run / TENSORBOARD, state.progress.epoch + 1)) as log:
        yield log.add


def stopped_early(state: TrainState, rows: list[Row]) -> bool:
    """Whether --patience ends the run: of its finished epochs alone, so that a resumed run ends there too."""
    score = SCORES[state.recipe.task].metric
    return out_of_patience(state.recipe, [row[score] for row in rows[: state.progress.epoch]])


def summarise(state: TrainState, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a finished run is reported by."""
    recipe, progress = state.recipe, state.progress
    best = max(rows, key=lambda row: row[SCORES[recipe.task].metric])
    return {
        "recipe": name,
        "task": recipe.task,
        "backbone": recipe.backbone,
        "mechanism": recipe.mechanism,
        "seed": recipe.seed,
        "epochs": rows[-1]["epoch"],
        "steps": progress.step,
        "patience": recipe.patience,
        "stopped_early": stopped_early(state, rows),
        "last": figures_of(rows[-1], "train/", "val/"),
        "best": figures_of(best, "val/"),
        **state.task.size(),
        "images_per_second": sum(row["images_per_second"] for row in rows) / len(rows),
        "wall_seconds": progress.wall_seconds,
        **describe_environment(state.accelerator.device, state.accelerator.num_processes),
    }


def figures_of(row: dict[str, Any], *splits: str) -> dict[str, Any]:
    """A row's epoch, and its figures of some splits."""
    return {name: value for name, value in row.items() if name == "epoch" or name.startswith(splits)}


def diverged(state: TrainState, what: str) -> FailedError:
    """One sentence for a training that went astray."""
    steps = checkpoint.saved_steps(state.run.checkpoints)
    kept = (
        f"the last good checkpoint is {checkpoint.path_of(state.run.checkpoints, steps[-1])}"
        if steps
        else "no checkpoint had been written yet"
    )
    return FailedError(f"{what}; {kept}; try a lower --lr, warm-up, or --precision fp32")
