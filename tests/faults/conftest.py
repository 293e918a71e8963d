"""One short run without a fault, and the means to make others like it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from crosslayer import files
from crosslayer.training.checkpoint import path_of, saved_steps
from tests.conftest import QUICK
from tests.faults.disk import FaultyDisk, files_of

Command = Callable[..., tuple[int, str, str]]
WORDS = (*QUICK, "--epochs", 3, "--mechanism", "none", "--loader", "resident")
"""Three epochs: the first's checkpoint may have to go."""


class Sound(NamedTuple):
    """A run without a fault, the words that made it but for --output, and the operations on files it took."""

    path: Path
    words: tuple[object, ...]
    operations: list[str]

    def copy(self, to: Path) -> Path:
        return Path(shutil.copytree(self.path, to))


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory, image_tree: Path) -> Sound:
    from crosslayer.cli import main

    words = ("train", "--data", image_tree, *WORDS)
    root = tmp_path_factory.mktemp("sound")
    assert main([str(word) for word in (*words, "--output", root / "before")]) == 0  # fills the cache of images
    disk = FaultyDisk()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "disk", disk)
        for module in disk_users():
            patch.setattr(module, "disk", disk)
        assert main([str(word) for word in (*words, "--output", root / "run")]) == 0
    return Sound(root / "run", words, disk.seen)


def disk_users() -> list[Any]:
    from crosslayer.training import checkpoint, lock, run_directory, scalars

    return [checkpoint, lock, run_directory, scalars]


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[FaultyDisk], None]:
    """Has all of crosslayer write to a disk."""

    def use(disk: FaultyDisk) -> None:
        for module in (files, *disk_users()):
            monkeypatch.setattr(module, "disk", disk)

    return use


def assert_told(code: int, err: str, *codes: int) -> None:
    """The bound on every refusal: an exit code of the known ones, at most three lines, no traceback."""
    assert code in (codes or (1, 2)), err
    assert "Traceback" not in err
    assert 0 < len(err.strip().splitlines()) <= 3, err


def assert_same_run(run: Path, sound: Path) -> None:
    """All but times is the same: files, rows, figures, and every checkpoint to the bit."""
    assert files_of(run) == files_of(sound)
    rows, expected = (
        [
            {name: value for name, value in json.loads(line).items() if name != "images_per_second"}
            for line in (path / "metrics.jsonl").read_text().splitlines()
        ]
        for path in (run, sound)
    )
    assert rows == expected
    ours, theirs = (json.loads((path / "summary.json").read_text()) for path in (run, sound))
    assert all(ours[name] == theirs[name] for name in ("last", "best", "steps", "epochs", "parameters"))
    for step in saved_steps(sound / "checkpoints"):
        ours, theirs = (torch.load(path_of(path / "checkpoints", step)) for path in (run, sound))
        for content in (ours, theirs):
            for name in ("wall_seconds", "epoch_seconds", "passing"):  # the last: that signals came
                content["progress"].pop(name)
        assert_equal(ours, theirs)


def assert_equal(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_equal(ours[name], theirs[name])
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs
