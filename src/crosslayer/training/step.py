"""One optimizer step: every process's parts of a batch forth and back, then the weights."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from crosslayer.data.chance import MODEL, seed_device
from crosslayer.training.sitting import Sitting


def training_step(sitting: Sitting, parts: list[Any]) -> Tensor:
    """One optimizer step over this process's parts of a batch: what it was measured by, the loss first."""
    progress, stream = sitting.progress, sitting.stream
    sitting.learner.set_rates(sitting.recipe, sitting.task.rate_factor(progress.step, stream.steps_per_epoch))
    first, *others = (forth_and_back(sitting, part, share, len(parts)) for share, part in enumerate(parts))
    update_weights(sitting)
    return sum(others, start=first)


def forth_and_back(sitting: Sitting, part: Any, share: int, count: int) -> Tensor:
    """The passes forward and backward of one of `count` parts: what it was measured by."""
    accelerator, progress, learner = sitting.accelerator, sitting.progress, sitting.learner
    key = sitting.recipe.seed, progress.epoch, progress.step_in_epoch, sitting.stream.shares.first + share
    seed_device(accelerator.device, key[0], MODEL, *key[1:])
    learner.begin_pass()
    with synchronised(accelerator, learner.model, share == count - 1):
        loss, measured = sitting.task.loss(learner.model, part, key)
        scaled(accelerator, loss / count if count > 1 else loss).backward()
    if share < count - 1:
        learner.keep_gradients()
    return measured


def scaled(accelerator: Accelerator, loss: Tensor) -> Tensor:
    """The loss as large as fp16's gradients need it."""
    return loss if accelerator.scaler is None else accelerator.scaler.scale(loss)


def update_weights(sitting: Sitting) -> None:
    """What the gradients change, and the average of it."""
    learner, progress, scaler = sitting.learner, sitting.progress, sitting.accelerator.scaler
    if progress.epoch < sitting.recipe.freeze_epochs:
        learner.drop_backbone_gradients()
    if scaler is None:
        learner.optimizer.step()
    else:
        scaler.step(learner.optimizer)
        scaler.update()
    learner.optimizer.zero_grad()
    if learner.average:
        learner.average.update(learner.model, step=progress.step + 1)


def synchronised(accelerator: Accelerator, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Gradients are averaged over the processes with the last part only."""
    return nullcontext() if last else accelerator.no_sync(model)
