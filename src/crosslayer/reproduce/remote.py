"""One run on a worker of a cluster: in the output folder where the worker shares it, or else in a folder of its own."""

import contextlib
import io
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from crosslayer.training.run_directory import RECIPE, SUMMARY, TENSORBOARD


class Task(NamedTuple):
    """What a worker needs to know of a run; plain values, since it is sent."""

    words: list[str]
    """Of `crosslayer train`, without --output."""
    path: str
    """The run's directory, as the machine that collects sees it."""
    token: str
    """A file that exists where the output folder is shared."""
    begun: bytes | None
    """The directory so far of a run that is to be resumed, for workers that do not share it."""
    launch: list[str]


class Outcome(NamedTuple):
    """What a worker sends back."""

    code: int
    reason: str
    """What the run said last on standard error."""
    where: str
    archive: bytes | None
    """The run's directory, from a worker that does not share the output folder."""


def train_here(task: Task, where: str) -> Outcome:
    """Trains a run on this machine, or goes on with it, and says how it ended."""
    from crosslayer.cli import main  # the whole command line, which the machine that collects has no use for

    shared = Path(task.token).exists()
    own = Path(tempfile.gettempdir()) / f"crosslayer{Path(task.token).name}" / Path(task.path).name
    folder = Path(task.path) if shared else own
    if not shared and task.begun and not (folder / RECIPE).exists():
        unpack(task.begun, folder)
    said = io.StringIO()
    code = 0
    if not (folder / SUMMARY).exists():  # a worker that was lost may have finished the run before
        begun = (folder / RECIPE).exists()
        words = ["train", "--resume", str(folder)] if begun else [*task.words, "--output", str(folder)]
        with contextlib.redirect_stderr(said):
            code = main([*words, *task.launch])
    lines = said.getvalue().strip().splitlines() or [""]
    return Outcome(code, lines[-1].removeprefix("crosslayer: "), where, None if shared else pack(folder))


def pack(folder: Path) -> bytes | None:
    """A folder as an archive, without TensorBoard's files; none if it does not exist."""
    if not folder.is_dir():
        return None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and TENSORBOARD not in file.relative_to(folder).parts:
                archive.add(file, file.relative_to(folder).as_posix())
    return buffer.getvalue()


def unpack(content: bytes, folder: Path) -> None:
    """An archive's files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder, filter="data")
