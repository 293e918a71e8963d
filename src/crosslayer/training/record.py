"""What the loop writes: checkpoints, TensorBoard scalars, the summary."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from crosslayer.errors import FailedError
from crosslayer.files import cannot_write
from crosslayer.training import checkpoint
from crosslayer.training.environment import describe_environment
from crosslayer.training.run_directory import TENSORBOARD
from crosslayer.training.scores import SCORES
from crosslayer.training.sitting import Sitting


def save(sitting: Sitting) -> None:
    """A checkpoint, by the main process."""
    accelerator, learner = sitting.accelerator, sitting.learner
    sitting.progress.wall_seconds = time.monotonic() - sitting.begun
    if accelerator.is_main_process:
        raw = accelerator.unwrap_model(learner.model).state_dict()
        checkpoint.save_checkpoint(
            sitting.run.checkpoints,
            sitting.progress,
            learner.average.module.state_dict() if learner.average else raw,
            learner.optimizer.state_dict(),
            accelerator.scaler.state_dict() if accelerator.scaler is not None else {},
            raw if learner.average else None,
        )


@contextlib.contextmanager
def scalar_log(sitting: Sitting) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that adds an epoch's row to TensorBoard's files; the main process's only.

    Raises:
        FailedError: the files could not be written.
    """
    if not sitting.accelerator.is_main_process:
        yield lambda _: None
        return
    folder = sitting.run / TENSORBOARD

    def log(row: dict[str, Any]) -> None:
        try:
            for name, value in row.items():
                if name != "epoch" and value is not None:
                    writer.add_scalar(name, value, row["epoch"])
            writer.flush()
        except OSError as error:
            raise cannot_write(folder, error) from error

    writer = SummaryWriter(folder, purge_step=sitting.progress.epoch + 1)
    try:
        yield log
    finally:
        with contextlib.suppress(OSError):  # what could not be written was told when it was logged
            writer.close()


def summarise(sitting: Sitting, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a finished run is reported by."""
    recipe, progress = sitting.recipe, sitting.progress
    best = max(rows, key=lambda row: row[SCORES[recipe.task].figure])
    return {
        "recipe": name,
        "task": recipe.task,
        "backbone": recipe.backbone,
        "mechanism": recipe.mechanism,
        "seed": recipe.seed,
        "epochs": rows[-1]["epoch"],
        "steps": progress.step,
        "last": figures_of(rows[-1], "train/", "val/"),
        "best": figures_of(best, "val/"),
        **sitting.task.size(),
        "images_per_second": sum(row["images_per_second"] for row in rows) / len(rows),
        "wall_seconds": progress.wall_seconds,
        **describe_environment(sitting.accelerator.device, sitting.accelerator.num_processes),
    }


def figures_of(row: dict[str, Any], *splits: str) -> dict[str, Any]:
    """A row's epoch, and its figures of some splits."""
    return {name: value for name, value in row.items() if name == "epoch" or name.startswith(splits)}


def diverged(sitting: Sitting, what: str) -> FailedError:
    """One sentence for a training that went astray."""
    steps = checkpoint.saved_steps(sitting.run.checkpoints)
    kept = (
        f"the last good checkpoint is {checkpoint.path_of(sitting.run.checkpoints, steps[-1])}"
        if steps
        else "no checkpoint had been written yet"
    )
    return FailedError(f"{what}; {kept}; try a lower --lr, warm-up, or --precision fp32")
