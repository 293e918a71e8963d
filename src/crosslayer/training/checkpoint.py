"""Checkpoints: written whole or not at all; the last two and the best are kept."""

import dataclasses
import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from crosslayer.errors import FailedError, UsageError
from crosslayer.files import whole_file

FORMAT = "crosslayer checkpoint 3"
_NAME = re.compile(r"step-(\d{8})\.pt")


@dataclasses.dataclass
class Progress:
    """How far a run is. An epoch's sums are kept so that an interrupted epoch reports as a whole one does."""

    epoch: int = 0
    """Epochs finished."""
    step_in_epoch: int = 0
    """Optimizer steps done in the epoch under way."""
    step: int = 0
    """Optimizer steps done in all."""
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    """What the steps of the epoch under way were measured by, summed over them and over all processes."""
    wall_seconds: float = 0.0
    """Time spent on training, evaluating and saving, over all sittings."""
    epoch_seconds: float = 0.0
    """Time spent on the training steps of the epoch under way."""
    best_score: float = -1.0
    """Best score on the validation split so far."""
    best_step: int = -1
    """The step it was measured at."""


def path_of(folder: Path, step: int) -> Path:
    """The checkpoint after `step` optimizer steps."""
    return folder / f"step-{step:08d}.pt"


def weights_of(checkpoint: Path) -> Path:
    """The same checkpoint's weights, as safetensors."""
    return checkpoint.with_suffix(".safetensors")


def saved_steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint, rising."""
    return sorted(int(match[1]) for file in folder.glob("step-*.pt") if (match := _NAME.fullmatch(file.name)))


def save_checkpoint(
    folder: Path,
    progress: Progress,
    model: dict[str, Tensor],
    optimizer: dict[str, Any],
    scaler: dict[str, Any],
    raw: dict[str, Tensor] | None = None,
) -> None:
    """Writes a checkpoint and its weights, then removes all but the last two and the best.

    Args:
        folder: where the run's checkpoints are.
        progress: how far the run is.
        model: the weights to use: the moving average, if there is one.
        optimizer: its state.
        scaler: of mixed precision's gradients.
        raw: the weights to train on from, where `model` is their average.
    """
    target = path_of(folder, progress.step)
    content = {
        "format": FORMAT,
        "progress": dataclasses.asdict(progress),
        "model": model,
        "raw": raw,
        "optimizer": optimizer,
        "scaler": scaler,
    }
    buffer = io.BytesIO()  # written to a file directly, torch.save hides why a write failed
    torch.save(content, buffer)
    with whole_file(target) as file:
        file.write(buffer.getbuffer())
    with whole_file(weights_of(target)) as file:
        file.write(save({name: value.detach().cpu().contiguous() for name, value in model.items()}))
    steps = saved_steps(folder)
    for step in set(steps[:-2]) - {progress.best_step}:
        path_of(folder, step).unlink()
        weights_of(path_of(folder, step)).unlink(missing_ok=True)


def load_checkpoint(file: Path) -> dict[str, Any]:
    """What a checkpoint holds, read without running code from it.

    Raises:
        FailedError: the file is truncated, damaged, or no checkpoint of crosslayer.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, KeyError, ValueError) as error:
        raise FailedError(
            f"checkpoint {file} is truncated or damaged; remove it to go on from the one before"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FailedError(f"{file} is not a checkpoint of this version of crosslayer")
    return content


def restore(model: nn.Module, weights: dict[str, Tensor], run: Path) -> None:
    """Loads a checkpoint's weights.

    Raises:
        FailedError: they are of another network than the run's recipe describes.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise FailedError(f"a checkpoint of {run} does not fit the recipe of its run; was it copied there?") from error


def find_checkpoint(folder: Path, which: str) -> Path:
    """The `last` or the `best` checkpoint of a run.

    Raises:
        UsageError: the run has none.
    """
    steps = saved_steps(folder)
    if not steps:
        raise UsageError(f"run {folder.parent} has no checkpoint yet")
    last = path_of(folder, steps[-1])
    if which == "last":
        return last
    best = path_of(folder, load_checkpoint(last)["progress"]["best_step"])
    return best if best.exists() else last
