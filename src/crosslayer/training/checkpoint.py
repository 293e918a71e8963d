"""Checkpoints: written whole or not at all; the last two and the best are kept."""

import dataclasses
import hashlib
import io
import re
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save
from torch import Tensor, nn

from crosslayer.console import errors
from crosslayer.errors import FailedError, UsageError
from crosslayer.files import PARTIAL, cannot_write, disk, whole_file

FORMAT = "crosslayer checkpoint 4"
_WITHOUT_DIGEST = "crosslayer checkpoint 3"
"""The format before, alike but for the digest."""
_NAME = re.compile(r"step-(\d{8,})\.(pt|safetensors)")
_MARK = b"crosslayer sha256 "
_END_OF_ZIP = b"PK\x05\x06"
_END_SIZE = 22
_COMMENT_SIZE = len(_MARK) + 64


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
    passing: list[int] = dataclasses.field(default_factory=list)
    """Steps that were saved because a signal came: a run without one has no checkpoints of them."""


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

    The weights come first: a checkpoint is there once the file is that a run goes on from.

    Args:
        folder: where the run's checkpoints are.
        progress: how far the run is.
        model: the weights to use: the moving average, if there is one.
        optimizer: its state.
        scaler: of mixed precision's gradients.
        raw: the weights to train on from, where `model` is their average.
    """
    target = path_of(folder, progress.step)
    weights = save({name: value.detach().cpu().contiguous() for name, value in model.items()})
    content = {
        "format": FORMAT,
        "progress": dataclasses.asdict(progress),
        "model": model,
        "raw": raw,
        "optimizer": optimizer,
        "scaler": scaler,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with whole_file(weights_of(target)) as file:
        file.write(weights)
    with whole_file(target) as file:
        file.write(_with_digest(buffer.getbuffer()))
    tidy(folder, progress)


def tidy(folder: Path, progress: Progress) -> None:
    """Removes all checkpoints but the last two and the best, weights without one, and what a killed process left."""
    steps = saved_steps(folder)
    regular = [step for step in steps if step not in progress.passing]
    kept = {*steps[-1:], *regular[-2:], progress.best_step}
    try:
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = _NAME.fullmatch(file.name)
            spare = match is not None and (int(match[1]) not in kept or not path_of(folder, int(match[1])).exists())
            if spare or (file.name.startswith(".step-") and file.name.endswith(PARTIAL)):
                disk.remove(file)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _with_digest(archive: memoryview) -> bytes:
    """A checkpoint, which is a zip archive, with the SHA-256 of all before it as the archive's comment."""
    end = len(archive) - _END_SIZE
    assert archive[end : end + 4] == _END_OF_ZIP, "torch.save ends an archive without a comment"
    body = bytes(archive[:-2]) + _COMMENT_SIZE.to_bytes(2, "little") + _MARK
    return body + hashlib.sha256(body).hexdigest().encode()


def _digest_holds(file: Path) -> bool | None:
    """Whether a checkpoint is as it was written; None if it was written without a digest."""
    with file.open("rb") as content:
        size = content.seek(0, io.SEEK_END)
        content.seek(max(0, size - 64))
        written = content.read()
        content.seek(max(0, size - _END_SIZE))
        end = content.read()
        if end[:4] == _END_OF_ZIP and end[-2:] == b"\0\0":
            return None
        content.seek(0)
        digest, left = hashlib.sha256(), size - 64
        while left > 0:
            part = content.read(min(left, 1 << 20))
            digest.update(part)
            left -= len(part)
    return written == digest.hexdigest().encode()


def load_checkpoint(file: Path) -> dict[str, Any]:
    """What a checkpoint holds, read without running code from it.

    Raises:
        FailedError: the file is not as it was written, or no checkpoint of crosslayer.
    """
    try:
        sound = _digest_holds(file)
        if sound is False:
            raise _damaged(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FailedError:
        raise
    except OSError as error:
        raise FailedError(f"checkpoint {file} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged archive without a digest raises errors of any kind
        raise _damaged(file) from error
    told = content.get("format") if isinstance(content, dict) else None
    if told not in (FORMAT, _WITHOUT_DIGEST):
        raise FailedError(f"{file} is not a checkpoint of this version of crosslayer")
    if sound is None and told == FORMAT:
        raise _damaged(file)
    if sound is None:
        errors.print(f"{file} has no digest, as an earlier version wrote it: it cannot be told whether it is damaged")
    try:
        progress = msgspec.convert(content, _Form).progress
    except msgspec.ValidationError as error:
        raise FailedError(f"{file} is not a checkpoint of this version of crosslayer: {error}") from error
    return content | {"progress": dataclasses.asdict(progress)}


class _Form(msgspec.Struct):
    """What a checkpoint holds."""

    progress: Progress
    model: dict[str, Any]
    raw: dict[str, Any] | None
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    weights_sha256: str = ""


def _damaged(file: Path) -> FailedError:
    earlier = [path for step in saved_steps(file.parent) if (path := path_of(file.parent, step)) < file]
    advice = f"remove it to go on from {earlier[-1].name}" if earlier else "there is none before it: begin a new run"
    return FailedError(f"checkpoint {file} is truncated or damaged; {advice}")


def check_weights(file: Path, content: dict[str, Any]) -> None:
    """Raises FailedError unless the weights beside a checkpoint are those that were written with it."""
    weights, written = weights_of(file), content.get("weights_sha256")
    try:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    except OSError as error:
        raise FailedError(f"weights {weights} cannot be read: {error.strerror or error}") from error
    if written and digest != written:
        raise FailedError(
            f"weights {weights} are truncated or damaged; the checkpoint {file.name} beside them has them"
        )


def restore(model: nn.Module, weights: dict[str, Tensor], run: Path) -> None:
    """Loads a checkpoint's weights.

    Raises:
        FailedError: they are of another network than the run's recipe describes.
    """
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
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
    if not best.exists():
        errors.print(f"run {folder.parent} has no checkpoint of its best step; its last is taken: {last.name}")
    return best if best.exists() else last
