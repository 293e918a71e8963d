"""Whether the files of a run are whole and belong together."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from crosslayer.errors import FailedError, reason
from crosslayer.training import checkpoint
from crosslayer.training.records import content_of
from crosslayer.training.run_directory import CURVES, METRICS, SUMMARY, TENSORBOARD, RunDirectory
from crosslayer.training.scalars import records
from crosslayer.training.task import SCORES


def faults(run: RunDirectory) -> list[str]:
    """A sentence for everything that is wrong with a run, in the order of its files; none if all is well.

    Raises:
        UsageError: there is no run.
    """
    run.check_begun()
    return [str(found) for check in _checks(run) if (found := _fault(check))]


def _fault(check: Callable[[], object]) -> FailedError | None:
    try:
        check()
    except FailedError as error:
        return error
    return None


def _checks(run: RunDirectory) -> Iterator[Callable[[], object]]:
    yield run.read
    yield run.environment
    yield run.metrics
    yield run.summary
    yield lambda: _check_summary(run)
    for step in checkpoint.saved_steps(run.checkpoints):
        yield lambda step=step: _check_checkpoint(run, step)
    if os.path.lexists(run / CURVES):
        yield lambda: _check_picture(run / CURVES)
    for file in sorted((run / TENSORBOARD).glob("*tfevents*")):
        yield lambda file=file: _check_events(file)


def _check_checkpoint(run: RunDirectory, step: int) -> None:
    file = checkpoint.path_of(run.checkpoints, step)
    content = checkpoint.load_checkpoint(file)
    checkpoint.check_weights(file, content)
    if content["progress"]["step"] != step:
        raise FailedError(f"checkpoint {file} is of step {content['progress']['step']}; was it copied there?")
    if _fault(run.metrics) is None and content["progress"]["epoch"] > len(run.metrics()):
        raise FailedError(f"{run / METRICS} lacks epochs that the checkpoint {file.name} has seen")


def _check_summary(run: RunDirectory) -> None:
    """A finished run's summary tells what its last row does."""
    if _fault(run.read) or _fault(run.metrics) or _fault(run.summary):
        return  # told already
    summary, rows, score = run.summary(), run.metrics(), SCORES[run.read()[1].task].metric
    told = (summary or {}).get("last", {}).get(score)
    if told is not None and (not rows or all(row.get(score) != told for row in rows)):
        raise FailedError(f"{run / SUMMARY} tells a {score!r} that is not in {METRICS}")


def _check_picture(file: Path) -> None:
    try:
        with Image.open(io.BytesIO(content_of(file)), formats=("PNG",)) as image:
            image.load()
    except FailedError:
        raise
    except Exception as error:  # decoders of damaged pictures raise errors of any kind
        raise FailedError(f"picture {file} is damaged: {reason(error)[:200]}") from error


def _check_events(file: Path) -> None:
    content = content_of(file)
    if sum(map(len, records(content))) != len(content):
        raise FailedError(f"TensorBoard's {file} is truncated or damaged; its figures are in {METRICS} too")
