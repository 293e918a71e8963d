"""A kill or a failing write at every single operation on files: the run that goes on equals one without a fault."""

import errno
from pathlib import Path

import pytest

from tests.faults.conftest import Sound, assert_same_run, assert_told
from tests.faults.disk import FaultyDisk, Killed, files_of

MOST = 110
"""More operations than a run has; a test below asserts it."""
FEW = {0, 3, 8, 17, 41, 66}
"""Those that `make test` tries."""
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT, errno.EROFS)


def every(*, few: set[int] = FEW) -> list:
    marks = {at: () if at in few else (pytest.mark.faults,) for at in range(MOST)}
    return [pytest.param(at, marks=mark, id=f"at{at}") for at, mark in marks.items()]


def go_on(crosslayer, sound: Sound, run: Path, *more: object) -> None:
    """As a user does: --resume where a run is, else the same command again."""
    begun = (run / "recipe.json").exists()
    words = ("train", "--resume", run, "--device", "cpu", "--workers", 1) if begun else (*sound.words, "--output", run)
    code, _, err = crosslayer(*words, *(() if begun else more))
    assert code == 0, err


def test_all_operations_are_tried(sound: Sound):
    assert {"create", "write", "sync", "rename", "remove", "make_folder", "open", "truncate"} <= set(sound.operations)
    assert len(sound.operations) <= MOST
    assert files_of(sound.path) == sorted(files_of(sound.path))
    assert not [name for name in files_of(sound.path) if name.rpartition("/")[2].startswith(".")]


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize("at", every())
@pytest.mark.sampled(3)
def test_killed(crosslayer, sound: Sound, tmp_path: Path, on_disk, at: int, torn: bool):
    if at >= len(sound.operations) or (torn and sound.operations[at] != "write"):
        return
    run = tmp_path / "run"
    on_disk(FaultyDisk(at, torn=torn))
    with pytest.raises(Killed):
        crosslayer(*sound.words, "--output", run)
    on_disk(FaultyDisk())
    go_on(crosslayer, sound, run)
    assert_same_run(run, sound.path)


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("at", every(few={5, 38}))
@pytest.mark.sampled(3)
def test_failing(crosslayer, sound: Sound, tmp_path: Path, on_disk, at: int, error: int):
    if at >= len(sound.operations):
        return
    run = tmp_path / "run"
    on_disk(FaultyDisk(at, error))
    code, _, err = crosslayer(*sound.words, "--output", run)
    on_disk(FaultyDisk())
    if code == 0:  # the lock's file could not be removed, which hurts nobody
        assert sound.operations[at] == "remove"
        (run / ".lock").unlink(missing_ok=True)
    else:
        assert_told(code, err, 1)
        assert "cannot write" in err
        assert not list(run.rglob("*.partial"))
        go_on(crosslayer, sound, run)
    assert_same_run(run, sound.path)


@pytest.mark.parametrize("at", every(few={7, 12}))
def test_killed_in_place_of_another_run(crosslayer, sound: Sound, tmp_path: Path, on_disk, at: int):
    """--overwrite: until the old recipe is gone there is the old run, from then on the new one's beginning."""
    run = sound.copy(tmp_path / "run")
    old = (run / "recipe.json").read_text()
    words = (*sound.words, "--lr", 0.05)
    disk = FaultyDisk(at)
    on_disk(disk)
    try:
        crosslayer(*words, "--output", run, "--overwrite")
    except Killed:
        on_disk(FaultyDisk())
        if (run / "recipe.json").exists() and (run / "recipe.json").read_text() == old:
            (run / ".lock").unlink(missing_ok=True)
            assert_same_run(run, sound.path)
            return
        go_on(crosslayer, sound._replace(words=words), run, "--overwrite")
    assert_same_length(run, sound.path)


def assert_same_length(run: Path, sound: Path) -> None:
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    assert '"lr": 0.05' in (run / "recipe.json").read_text()
    assert '"epochs": 3' in (run / "summary.json").read_text()
    assert not [name for name in files_of(run) if name.rpartition("/")[2].startswith(".")]
