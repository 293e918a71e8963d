"""The training loop: plain, in one process or in many."""

import math
import time
from contextlib import closing
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import Tensor

from crosslayer.console import console
from crosslayer.files import write_json
from crosslayer.training.display import Display
from crosslayer.training.interruption import InterruptedRun, Interruption
from crosslayer.training.launch import Launch
from crosslayer.training.processes import largest_of_processes, over_processes
from crosslayer.training.recipe import TrainingRecipe
from crosslayer.training.record import diverged, save, scalar_log, summarise
from crosslayer.training.run_directory import SUMMARY, RunDirectory
from crosslayer.training.schedule import final_step
from crosslayer.training.scores import SCORES
from crosslayer.training.sitting import Sitting, prepare
from crosslayer.training.step import training_step

CHECK_EVERY = 20
"""Steps between looks at the losses on a GPU, where a look waits for the device."""


def train(name: str, recipe: TrainingRecipe, launch: Launch) -> RunDirectory:
    """Trains `recipe`, or goes on with the run that `launch.resume` names.

    Raises:
        UsageError: what was asked for cannot be; nothing was written.
        FailedError: data, disk or arithmetic failed on the way; the last checkpoint is whole.
        InterruptedRun: a signal came; the run was saved.
    """
    sitting = prepare(name, recipe, launch)
    with closing(sitting.stream.images):
        return run_to_end(sitting, name)


def run_to_end(sitting: Sitting, name: str) -> RunDirectory:
    """Epoch after epoch from where the run is, then its summary."""
    recipe = sitting.recipe
    last_step = final_step(recipe, sitting.stream.steps_per_epoch)
    progress, accelerator = sitting.progress, sitting.accelerator
    main = accelerator.is_main_process
    if main and progress.step >= last_step:
        console.print(
            f"{sitting.run.path} is already trained to step {progress.step} of {last_step}; raise --epochs to go on"
        )
    rows = [row for row in sitting.run.metrics() if row["step"] <= progress.step]
    display = Display(recipe.total_epochs, sitting.stream.steps_per_epoch, last_step, recipe.batch_size, shown=main)
    with Interruption() as interruption, scalar_log(sitting) as log, display:
        while progress.step < last_step:
            train_epoch(sitting, last_step, display, interruption)
            row = finish_epoch(sitting, validate(sitting))
            rows = [*(other for other in rows if other["epoch"] != row["epoch"]), row]
            display.epoch(row, sitting.task.words(row, "train"), sitting.task.words(row, "val"))
            if main:
                sitting.run.write_metrics(rows)
                log(row)
            save(sitting)
            if progress.step < last_step:
                stop_if_interrupted(sitting, interruption)
    if main:
        write_json(sitting.run / SUMMARY, summarise(sitting, name, rows))
    accelerator.wait_for_everyone()
    return sitting.run


def train_epoch(sitting: Sitting, last_step: int, display: Display, interruption: Interruption) -> None:
    """The steps of the epoch under way, from where it was left to its end or to `last_step`."""
    recipe, progress, stream = sitting.recipe, sitting.progress, sitting.stream
    check_every = 1 if sitting.accelerator.device.type == "cpu" else CHECK_EVERY
    measured: list[Tensor] = []
    begun, sitting_images = time.monotonic(), 0
    earlier_seconds = progress.epoch_seconds
    sitting.learner.start_epoch(keep_statistics=recipe.freeze_norm or progress.epoch < recipe.freeze_epochs)
    with closing(stream.epoch(progress.epoch, progress.step_in_epoch)) as steps:
        for parts in steps:
            measured.append(training_step(sitting, parts))
            progress.step += 1
            progress.step_in_epoch += 1
            sitting_images += recipe.batch_size
            done = progress.step == last_step or progress.step_in_epoch == stream.steps_per_epoch
            saves = bool(sitting.save_steps) and progress.step % sitting.save_steps == 0
            if done or saves or progress.step % check_every == 0:
                collect(sitting, measured)
                now = time.monotonic()
                progress.epoch_seconds = earlier_seconds + now - begun
                figures = sitting.task.figures(progress.sums, progress.step_in_epoch)
                words, speed = sitting.task.words(figures, "train"), sitting_images / (now - begun)
                display.update(progress.epoch + 1, progress.step, words, speed)
                if done:
                    break
                if saves:
                    save(sitting)
                stop_if_interrupted(sitting, interruption)


def collect(sitting: Sitting, measured: list[Tensor]) -> None:
    """Adds the latest steps to the epoch's sums; waits for the device.

    Raises:
        FailedError: a loss that is no finite number; the step is named.
    """
    progress = sitting.progress
    steps = over_processes(sitting.accelerator, torch.stack(measured)).tolist()
    first = progress.step - len(steps) + 1
    measured.clear()
    for step, values in enumerate(steps, first):
        if not math.isfinite(values[0]):
            raise diverged(sitting, f"the loss became {values[0]} at step {step} (epoch {progress.epoch + 1})")
        for name, value in zip(sitting.task.measures, values, strict=True):
            progress.sums[name] = progress.sums.get(name, 0.0) + value


def validate(sitting: Sitting) -> dict[str, float | None]:
    """The validation split's figures of the weights to use, with the main process's running statistics everywhere."""
    accelerator, learner = sitting.accelerator, sitting.learner
    model = accelerator.unwrap_model(learner.model)
    used = learner.average.module if learner.average else model
    if accelerator.num_processes > 1:
        for buffer in (*model.buffers(), *(used.buffers() if used is not model else ())):
            broadcast(buffer)
    figures = sitting.task.validate(used)
    loss = figures.get("val/loss")
    if loss is not None and not math.isfinite(loss):
        raise diverged(sitting, f"the validation loss became {loss} after step {sitting.progress.step}")
    return figures


def finish_epoch(sitting: Sitting, validated: dict[str, float | None]) -> dict[str, Any]:
    """The epoch's row; then the sums start anew, if the epoch is whole."""
    recipe, progress, stream, task = sitting.recipe, sitting.progress, sitting.stream, sitting.task
    row = {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        "lr": recipe.lr * task.rate_factor(progress.step - 1, stream.steps_per_epoch),
        **task.figures(progress.sums, progress.step_in_epoch),
        **validated,
        "images_per_second": progress.step_in_epoch * recipe.batch_size / progress.epoch_seconds,
    }
    score = row[SCORES[recipe.task].figure]
    if score > progress.best_score:
        progress.best_score, progress.best_step = score, progress.step
    if progress.step_in_epoch == stream.steps_per_epoch:
        progress.epoch += 1
        progress.step_in_epoch, progress.sums, progress.epoch_seconds = 0, {}, 0.0
    return row


def stop_if_interrupted(sitting: Sitting, interruption: Interruption) -> None:
    """Saves and raises InterruptedRun when a signal has come to any process."""
    accelerator = sitting.accelerator
    number = largest_of_processes(accelerator, interruption.number)
    if number:
        save(sitting)
        accelerator.wait_for_everyone()
        raise InterruptedRun(
            number,
            f"stopped by a signal after step {sitting.progress.step}, saved; "
            f"go on with: crosslayer train --resume {sitting.run.path}",
        )
