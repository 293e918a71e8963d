"""Everything that one sitting of a run works with; all is checked before anything is written."""

import time
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator

from crosslayer.console import console
from crosslayer.data.stream import Shares, TrainingStream
from crosslayer.training import checkpoint
from crosslayer.training.checkpoint import Progress
from crosslayer.training.compilation import check_compilation
from crosslayer.training.device import start_accelerator
from crosslayer.training.environment import describe_environment
from crosslayer.training.launch import Launch
from crosslayer.training.learner import Learner, build_learner
from crosslayer.training.networks import build_model
from crosslayer.training.recipe import TrainingRecipe
from crosslayer.training.run_directory import RunDirectory
from crosslayer.training.task import Task
from crosslayer.training.tasks import load_task


class Sitting(NamedTuple):
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
    begun: float
    """When the clock would have been started, had all earlier sittings been part of this one."""


def prepare(name: str, recipe: TrainingRecipe, launch: Launch) -> Sitting:
    """Checks everything that can be checked, then makes the run directory (or opens the resumed one)."""
    run = RunDirectory(launch.resume or launch.output or default_output(name, recipe))
    if not launch.resume:
        run.check_free(launch.overwrite)
    build_model(recipe, num_classes=2)  # a wrong name is told before any data is read
    accelerator = start_accelerator(launch.device, recipe.precision)
    check_compilation(recipe, accelerator.device)
    task = load_task(name, recipe, launch, accelerator, run.read()[2] if launch.resume else None)
    stream = TrainingStream(
        task.images,
        batch_size=recipe.batch_size,
        shares=own_shares(accelerator, recipe.accumulate),
        seed=recipe.seed,
        paired=task.paired,
    )
    state = latest_state(run) if launch.resume else None
    learner = build_learner(recipe, len(task.facts.classes), accelerator, run.path, state)
    if accelerator.is_main_process:
        environment = describe_environment(accelerator.device, accelerator.num_processes)
        run.begin(name, recipe, task.facts, environment, resumed=bool(launch.resume))
        announce(recipe, task, run, stream, accelerator)
        for part in accelerator.unwrap_model(learner.model).modules():
            for attachment in getattr(part, "attachments", ()):
                console.print(f"  {attachment}")
    progress = Progress(**state["progress"]) if state else Progress()
    begun = time.monotonic() - progress.wall_seconds
    return Sitting(recipe, task, run, accelerator, learner, stream, progress, launch.save_steps, begun)


def own_shares(accelerator: Accelerator, accumulate: int) -> Shares:
    """This process's parts of every batch."""
    return Shares(accelerator.process_index * accumulate, accumulate, accelerator.num_processes * accumulate)


def default_output(name: str, recipe: TrainingRecipe) -> Path:
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


def latest_state(run: RunDirectory) -> dict[str, Any] | None:
    """The last checkpoint of a run, if it has any."""
    steps = checkpoint.saved_steps(run.checkpoints)
    return checkpoint.load_checkpoint(checkpoint.path_of(run.checkpoints, steps[-1])) if steps else None
