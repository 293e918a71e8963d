"""The training loop: plain, in one process or in many."""

import math
import time
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from crosslayer.console import console
from crosslayer.data.rng import MODEL, seed_device
from crosslayer.errors import FailedError
from crosslayer.files import write_json
from crosslayer.training.display import Display
from crosslayer.training.interruption import InterruptedRun, Interruption
from crosslayer.training.launch import Launch, largest_of_processes, over_processes
from crosslayer.training.recipe import TrainingRecipe
from crosslayer.training.records import Row
from crosslayer.training.run_directory import METRICS, SUMMARY, RunDirectory
from crosslayer.training.schedule import final_step
from crosslayer.training.task import SCORES
from crosslayer.training.train_state import TrainState, diverged, prepare, save, scalar_log, stopped_early, summarise


def training_step(state: TrainState, parts: list[Any]) -> Tensor:
    """One optimizer step over this process's parts of a batch: what it was measured by, the loss first."""
    progress, stream = state.progress, state.stream
    state.learner.set_rates(state.recipe, state.task.rate_factor(progress.step, stream.steps_per_epoch))
    first, *others = (_forward_backward(state, part, share, len(parts)) for share, part in enumerate(parts))
    _update_weights(state)
    return sum(others, start=first)


def _forward_backward(state: TrainState, part: Any, share: int, count: int) -> Tensor:
    """The passes forward and backward of one of `count` parts: what it was measured by."""
    accelerator, progress, learner = state.accelerator, state.progress, state.learner
    key = state.recipe.seed, progress.epoch, progress.step_in_epoch, state.stream.shares.first + share
    seed_device(accelerator.device, key[0], MODEL, *key[1:])
    learner.begin_pass()
    with synchronised(accelerator, learner.model, share == count - 1):
        loss, measured = state.task.loss(learner.model, part, key)
        scaled(accelerator, loss / count if count > 1 else loss).backward()
    if share < count - 1:
        learner.keep_gradients()
    return measured


def scaled(accelerator: Accelerator, loss: Tensor) -> Tensor:
    """The loss as large as fp16's gradients need it."""
    return loss if accelerator.scaler is None else accelerator.scaler.scale(loss)


def _update_weights(state: TrainState) -> None:
    """What the gradients change, and the average of it."""
    learner, progress, scaler = state.learner, state.progress, state.accelerator.scaler
    if progress.epoch < state.recipe.freeze_epochs:
        learner.drop_backbone_gradients()
    if scaler is None:
        learner.optimizer.step()
    else:
        scaler.step(learner.optimizer)
        scaler.update()
    learner.optimizer.zero_grad()
    if learner.ema:
        learner.ema.update(learner.model, step=progress.step + 1)


def synchronised(accelerator: Accelerator, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Gradients are averaged over the processes with the last part only."""
    return nullcontext() if last else accelerator.no_sync(model)


CHECK_EVERY = 20
"""Steps between looks at the losses on a GPU, where a look waits for the device."""


def train(name: str, recipe: TrainingRecipe, launch: Launch) -> RunDirectory:
    """Trains `recipe`, or goes on with the run that `launch.resume` names.

    Raises:
        UsageError: what was asked for cannot be; nothing was written.
        FailedError: data, disk or arithmetic failed on the way; the last checkpoint is whole.
        InterruptedRun: a signal came; the run was saved.
    """
    state = prepare(name, recipe, launch)
    try:
        with closing(state.stream.images), closing(state.trackers):
            return _run_to_end(state, name)
    finally:
        state.run.lock.release()


def _run_to_end(state: TrainState, name: str) -> RunDirectory:
    """Epoch after epoch from where the run is, then its summary."""
    recipe = state.recipe
    last_step = final_step(recipe, state.stream.steps_per_epoch)
    progress, accelerator = state.progress, state.accelerator
    main = accelerator.is_main_process
    rows = _rows_so_far(state)
    if main and progress.step >= last_step:
        console.print(
            f"{state.run.path} is already trained to step {progress.step} of {last_step}; raise --epochs to go on"
        )
    elif main and stopped_early(state, rows):
        console.print(f"{state.run.path} was stopped by --patience {recipe.patience}; raise it to go on")
    display = Display(recipe.total_epochs, state.stream.steps_per_epoch, last_step, recipe.batch_size, shown=main)
    with Interruption() as interruption, scalar_log(state) as log, display:
        while progress.step < last_step and not stopped_early(state, rows):
            train_epoch(state, last_step, display, interruption)
            row = _finish_epoch(state, validate(state))
            rows = [*(other for other in rows if other["epoch"] != row["epoch"]), row]
            display.epoch(row, state.task.as_text(row, "train"), state.task.as_text(row, "val"))
            if main:
                state.run.write_metrics(rows)
                log(row)
                state.trackers.epoch(row)
            save(state)
            if progress.step < last_step and not stopped_early(state, rows):
                _stop_if_interrupted(state, interruption, saved=True)
    if main:
        write_json(state.run / SUMMARY, summarise(state, name, rows))
    accelerator.wait_for_everyone()
    return state.run


def _rows_so_far(state: TrainState) -> list[Row]:
    """The rows of the epochs that a run has finished.

    Raises:
        FailedError: some are missing, or lack what a summary tells.
    """
    progress = state.progress
    rows = [row for row in state.run.metrics() if row["step"] <= progress.step]
    score = SCORES[state.recipe.task].metric
    epochs = [row["epoch"] for row in rows]
    file = state.run / METRICS
    if epochs[: progress.epoch] != list(range(1, progress.epoch + 1)):
        raise FailedError(f"{file} lacks epochs that the last checkpoint has seen; restore it, or begin a new run")
    if any(row.get(name) is None for row in rows for name in (score, "lr", "images_per_second")):
        raise FailedError(f"{file} has rows without {score!r}, 'lr' or 'images_per_second'; restore it from a copy")
    return rows


def train_epoch(state: TrainState, last_step: int, display: Display, interruption: Interruption) -> None:
    """The steps of the epoch under way, from where it was left to its end or to `last_step`."""
    recipe, progress, stream = state.recipe, state.progress, state.stream
    check_every = 1 if state.accelerator.device.type == "cpu" else CHECK_EVERY
    measured: list[Tensor] = []
    begun, seen_images = time.monotonic(), 0
    earlier_seconds = progress.epoch_seconds
    state.learner.start_epoch(keep_statistics=recipe.freeze_norm or progress.epoch < recipe.freeze_epochs)
    with closing(stream.epoch(progress.epoch, progress.step_in_epoch)) as steps:
        for parts in steps:
            measured.append(training_step(state, parts))
            progress.step += 1
            progress.step_in_epoch += 1
            seen_images += recipe.batch_size
            done = progress.step == last_step or progress.step_in_epoch == stream.steps_per_epoch
            saves = bool(state.save_steps) and progress.step % state.save_steps == 0
            if done or saves or progress.step % check_every == 0:
                collect(state, measured)
                now = time.monotonic()
                progress.epoch_seconds = earlier_seconds + now - begun
                figures = state.task.metrics(progress.sums, progress.step_in_epoch)
                words, speed = state.task.as_text(figures, "train"), seen_images / (now - begun)
                display.update(progress.epoch + 1, progress.step, words, speed)
                if done:
                    break
                if saves:
                    save(state)
                _stop_if_interrupted(state, interruption, saved=saves)


def collect(state: TrainState, measured: list[Tensor]) -> None:
    """Adds the latest steps to the epoch's sums; waits for the device.

    Raises:
        FailedError: a loss that is no finite number; the step is named.
    """
    progress = state.progress
    steps = over_processes(state.accelerator, torch.stack(measured)).tolist()
    first = progress.step - len(steps) + 1
    measured.clear()
    for step, values in enumerate(steps, first):
        if not math.isfinite(values[0]):
            raise diverged(state, f"the loss became {values[0]} at step {step} (epoch {progress.epoch + 1})")
        named = dict(zip(state.task.loss_names, values, strict=True))
        for name, value in named.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value
        state.trackers.step(step, named)


def validate(state: TrainState) -> dict[str, float | None]:
    """The validation split's figures of the weights to use, with the main process's running statistics everywhere."""
    accelerator, learner = state.accelerator, state.learner
    model = accelerator.unwrap_model(learner.model)
    used = learner.ema.module if learner.ema else model
    if accelerator.num_processes > 1:
        for buffer in (*model.buffers(), *(used.buffers() if used is not model else ())):
            broadcast(buffer)
    figures = state.task.validate(used)
    loss = figures.get("val/loss")
    if loss is not None and not math.isfinite(loss):
        raise diverged(state, f"the validation loss became {loss} after step {state.progress.step}")
    return figures


def _finish_epoch(state: TrainState, validated: dict[str, float | None]) -> dict[str, Any]:
    """The epoch's row; then the sums start anew, if the epoch is whole."""
    recipe, progress, stream, task = state.recipe, state.progress, state.stream, state.task
    row = {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        "lr": recipe.lr * task.rate_factor(progress.step - 1, stream.steps_per_epoch),
        **task.metrics(progress.sums, progress.step_in_epoch),
        **validated,
        "images_per_second": progress.step_in_epoch * recipe.batch_size / progress.epoch_seconds,
    }
    score = row[SCORES[recipe.task].metric]
    if score > progress.best_score:
        progress.best_score, progress.best_step = score, progress.step
    if progress.step_in_epoch == stream.steps_per_epoch:
        progress.epoch += 1
        progress.step_in_epoch, progress.sums, progress.epoch_seconds = 0, {}, 0.0
    return row


def _stop_if_interrupted(state: TrainState, interruption: Interruption, *, saved: bool) -> None:
    """Saves, unless that is done, and raises InterruptedRun when a signal has come to any process."""
    accelerator = state.accelerator
    number = largest_of_processes(accelerator, interruption.number)
    if number:
        if not saved:
            state.progress.passing.append(state.progress.step)
            save(state)
        accelerator.wait_for_everyone()
        raise InterruptedRun(
            number,
            f"stopped by a signal after step {state.progress.step}, saved; "
            f"go on with: crosslayer train --resume {state.run.path}",
        )
