"""The training loop: plain, in one process or in many."""

import math
import time
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from crosslayer.console import console
from crosslayer.data.augment import normalise
from crosslayer.data.chance import MODEL, seeded
from crosslayer.data.images import Batch
from crosslayer.files import write_json
from crosslayer.training.display import Display
from crosslayer.training.evaluation import Evaluation, evaluate
from crosslayer.training.interruption import InterruptedRun, Interruption
from crosslayer.training.launch import Launch
from crosslayer.training.processes import largest_of_processes, over_processes
from crosslayer.training.recipe import Recipe
from crosslayer.training.record import diverged, save, scalar_log, summarise
from crosslayer.training.run_directory import SUMMARY, RunDirectory
from crosslayer.training.schedule import final_step, learning_rate, rate_factor
from crosslayer.training.sitting import Sitting, prepare

CHECK_EVERY = 20
"""Steps between looks at the losses on a GPU, where a look waits for the device."""


def train(name: str, recipe: Recipe, launch: Launch) -> RunDirectory:
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
    display = Display(recipe.epochs, sitting.stream.steps_per_epoch, last_step, recipe.batch_size, shown=main)
    with Interruption() as interruption, scalar_log(sitting) as log, display:
        while progress.step < last_step:
            train_epoch(sitting, last_step, display, interruption)
            result = validate(sitting)
            row = finish_epoch(sitting, result)
            rows = [*(other for other in rows if other["epoch"] != row["epoch"]), row]
            display.epoch(row)
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
    losses: list[Tensor] = []
    corrects: list[Tensor] = []
    begun, sitting_images = time.monotonic(), 0
    earlier_seconds = progress.epoch_seconds
    sitting.learner.start_epoch(keep_statistics=recipe.freeze_norm or progress.epoch < recipe.freeze_epochs)
    with closing(stream.epoch(progress.epoch, progress.step_in_epoch)) as steps:
        for parts in steps:
            loss, correct = training_step(sitting, parts)
            losses.append(loss)
            corrects.append(correct)
            progress.step += 1
            progress.step_in_epoch += 1
            sitting_images += recipe.batch_size
            done = progress.step == last_step or progress.step_in_epoch == stream.steps_per_epoch
            saves = bool(sitting.save_steps) and progress.step % sitting.save_steps == 0
            if done or saves or progress.step % check_every == 0:
                collect(sitting, losses, corrects)
                now = time.monotonic()
                progress.epoch_seconds = earlier_seconds + now - begun
                seen = progress.step_in_epoch
                top1 = 100 * progress.correct / (seen * recipe.batch_size)
                speed = sitting_images / (now - begun)
                display.update(progress.epoch + 1, progress.step, progress.loss_sum / seen, top1, speed)
                if done:
                    break
                if saves:
                    save(sitting)
                stop_if_interrupted(sitting, interruption)


def training_step(sitting: Sitting, parts: list[Batch]) -> tuple[Tensor, Tensor]:
    """One optimizer step over this process's parts of a batch: their mean loss, and how many were right.

    A mixed image counts as right when the class it has most of was recognised.
    """
    recipe, accelerator, progress, learner = sitting.recipe, sitting.accelerator, sitting.progress, sitting.learner
    learner.set_rates(recipe, rate_factor(recipe, progress.step, sitting.stream.steps_per_epoch))
    total = torch.zeros((), device=accelerator.device)
    correct = torch.zeros((), device=accelerator.device, dtype=torch.int64)
    for share, (pixels, labels) in enumerate(parts):
        key = progress.epoch, progress.step_in_epoch, sitting.stream.shares.first + share
        torch.manual_seed(seeded(recipe.seed, MODEL, *key))
        x = normalise(pixels, sitting.facts.mean, sitting.facts.std)
        x, targets = sitting.mix(x, labels, (recipe.seed, *key))
        with synchronised(accelerator, learner.model, share == len(parts) - 1):
            with accelerator.autocast():
                logits = learner.model(x)
            loss = F.cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing) / len(parts)
            accelerator.backward(loss)
        total += loss.detach()
        correct += (logits.argmax(1) == (targets if targets.ndim == 1 else targets.argmax(1))).sum()
    update_weights(sitting)
    return total, correct


def update_weights(sitting: Sitting) -> None:
    """What the gradients change, and the average of it."""
    learner, progress = sitting.learner, sitting.progress
    if progress.epoch < sitting.recipe.freeze_epochs:
        learner.drop_backbone_gradients()
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    if learner.average:
        learner.average.update(sitting.accelerator.unwrap_model(learner.model), step=progress.step + 1)


def synchronised(accelerator: Accelerator, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Gradients are averaged over the processes with the last part only."""
    return nullcontext() if last else accelerator.no_sync(model)


def collect(sitting: Sitting, losses: list[Tensor], corrects: list[Tensor]) -> None:
    """Adds the latest steps to the epoch's sums; waits for the device.

    Raises:
        FailedError: a loss that is no finite number; the step is named.
    """
    accelerator, progress = sitting.accelerator, sitting.progress
    values = over_processes(accelerator, torch.stack(losses), "mean").tolist()
    progress.correct += int(over_processes(accelerator, torch.stack(corrects).sum()))
    first = progress.step - len(values) + 1
    losses.clear()
    corrects.clear()
    for step, value in enumerate(values, first):
        if not math.isfinite(value):
            raise diverged(sitting, f"the loss became {value} at step {step} (epoch {progress.epoch + 1})")
        progress.loss_sum += value


def validate(sitting: Sitting) -> Evaluation:
    """The validation split through the weights to use, with the main process's running statistics everywhere."""
    accelerator, learner = sitting.accelerator, sitting.learner
    model = accelerator.unwrap_model(learner.model)
    used = learner.average.module if learner.average else model
    if accelerator.num_processes > 1:
        for buffer in (*model.buffers(), *(used.buffers() if used is not model else ())):
            broadcast(buffer)
    result = evaluate(used, sitting.val, sitting.facts, sitting.recipe.batch_size, accelerator)
    if not math.isfinite(result.loss):
        raise diverged(sitting, f"the validation loss became {result.loss} after step {sitting.progress.step}")
    return result


def finish_epoch(sitting: Sitting, result: Evaluation) -> dict[str, Any]:
    """The epoch's row; then the sums start anew, if the epoch is whole."""
    recipe, progress, stream = sitting.recipe, sitting.progress, sitting.stream
    seen = progress.step_in_epoch * recipe.batch_size
    row = {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        "lr": learning_rate(recipe, progress.step - 1, stream.steps_per_epoch),
        "train/loss": progress.loss_sum / progress.step_in_epoch,
        "train/top1": 100 * progress.correct / seen,
        "val/loss": result.loss,
        "val/top1": result.top1,
        "val/top5": result.top5,
        "images_per_second": seen / progress.epoch_seconds,
    }
    if result.top1 > progress.best_top1:
        progress.best_top1, progress.best_step = result.top1, progress.step
    if progress.step_in_epoch == stream.steps_per_epoch:
        progress.epoch += 1
        progress.step_in_epoch, progress.loss_sum, progress.correct, progress.epoch_seconds = 0, 0.0, 0, 0.0
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
