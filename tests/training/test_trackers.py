"""Trackers are told what a run's own files say, and steps in between; one that is missing or fails is one sentence."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import QUICK


class Kept(GeneralTracker):
    """Keeps what it is told."""

    name = "kept"
    requires_logging_directory = False
    told: list[tuple[str, Any]]
    failing: str | None = None

    def __init__(self, project: str) -> None:
        super().__init__()
        self.note("project", project)

    def note(self, what: str, value: Any) -> None:
        if self.failing == what:
            raise OSError(f"no {what} today")
        self.told.append((what, value))

    @property
    def tracker(self):
        return self

    def start(self):
        self.note("start", None)

    def store_init_configuration(self, values: dict):
        self.note("configuration", values)

    def log(self, values: dict, step: int | None = None, **_: Any):
        self.note("log", (step, values))

    def finish(self):
        self.note("finish", None)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Kept]]:
    Kept.told, Kept.failing = [], None
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "kept", Kept)
    yield Kept
    Kept.failing = None


@pytest.fixture
def train(crosslayer, image_tree: Path, tmp_path: Path):
    def run(*words: object) -> tuple[int, str]:
        output = (
            ()
            if "--resume" in words
            else ("--data", image_tree, "--output", tmp_path / "run", *QUICK, "--mechanism", "se", "--no-fused")
        )
        code, _, err = crosslayer("train", *output, *words)
        return code, err

    return run


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_tracker_is_told_steps_and_epochs(train, kept: type[Kept], tmp_path: Path):
    code, err = train("--log-with", "kept", "--log-steps", 1, "--epochs", 3, "--milestones", 1, "--lr", 0.05)
    assert code == 0, err
    assert [what for what, _ in kept.told[:3]] == ["project", "start", "configuration"]
    assert kept.told[2][1]["lr"] == 0.05
    assert kept.told[2][1]["milestones"] == "1"
    logs = [value for what, value in kept.told if what == "log"]
    assert [step for step, _ in logs] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    for epoch, row in enumerate(rows(tmp_path / "run")):
        (_, first), (_, second), (_, whole) = logs[3 * epoch : 3 * epoch + 3]
        assert whole == {name: value for name, value in row.items() if name != "step"}
        assert first.keys() == second.keys() == {"step/loss", "step/top1", "step/lr"}
        assert (first["step/loss"] + second["step/loss"]) / 2 == pytest.approx(row["train/loss"])
        assert (first["step/top1"] + second["step/top1"]) / 2 == pytest.approx(row["train/top1"])
        assert second["step/lr"] == row["lr"]
    assert kept.told[-1] == ("finish", None)


def test_steps_are_told_together(train, kept: type[Kept]):
    assert train("--log-with", "kept", "kept", "--log-steps", 3, "--epochs", 2)[0] == 0
    assert [
        step for step, values in (value for what, value in kept.told if what == "log") if "step/loss" in values
    ] == [3]
    assert [what for what, _ in kept.told].count("start") == 1  # named twice, there once


def test_tensorboard_and_another_at_once(train, kept: type[Kept], tmp_path: Path):
    code, err = train("--log-with", "tensorboard", "kept", "--log-steps", 1, "--epochs", 2)
    assert code == 0, err
    folder = tmp_path / "run" / "tensorboard" / "crosslayer"
    events = EventAccumulator(str(folder)).Reload()
    told = [value for what, value in kept.told if what == "log"]
    losses = [(step, values["step/loss"]) for step, values in told if "step/loss" in values]
    assert [(e.step, e.value) for e in events.Scalars("step/loss")] == [(s, pytest.approx(v)) for s, v in losses]
    top1 = [row["val/top1"] for row in rows(tmp_path / "run")]
    assert [e.value for e in events.Scalars("val/top1")] == pytest.approx(top1)


def test_a_resumed_run_voids_what_it_does_anew(train, tmp_path: Path):
    options = ("--log-with", "tensorboard", "--log-steps", 1, "--epochs")
    assert train(*options, 2)[0] == 0
    assert train(*options, 3, "--resume", tmp_path / "run", "--device", "cpu")[0] == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "crosslayer")).Reload()
    assert [e.step for e in events.Scalars("step/loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tensorbord", "--log-with: unknown tracker 'tensorbord'; did you mean tensorboard"),
        ("comet_ml", "--log-with comet_ml needs comet_ml: pip install comet-ml"),
    ],
)
def test_a_tracker_that_is_not_there_is_told_before_anything_is_made(train, tmp_path: Path, name: str, sentence: str):
    code, err = train("--log-with", name)
    assert code == 2
    assert sentence in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["start", "configuration"])
def test_a_tracker_that_does_not_start_stops_the_run(train, kept: type[Kept], tmp_path: Path, what: str):
    kept.failing = what
    code, err = train("--log-with", "kept")
    assert code == 1
    assert f"--log-with kept did not start: no {what} today" in err
    kept.failing = None
    assert train("--resume", tmp_path / "run", "--log-with", "kept", "--device", "cpu")[0] == 0
    assert len(rows(tmp_path / "run")) == 1


def test_a_tracker_that_fails_on_the_way_does_not(train, kept: type[Kept], tmp_path: Path):
    kept.failing = "log"
    code, err = train("--log-with", "kept", "--log-steps", 1, "--epochs", 2)
    assert code == 0
    assert err.count("--log-with kept failed and is told no more: no log today") == 1
    assert len(rows(tmp_path / "run")) == 2


def test_none_is_told_unasked(train, kept: type[Kept], tmp_path: Path):
    assert train()[0] == 0
    assert kept.told == []
    assert [path.name for path in (tmp_path / "run" / "tensorboard").iterdir()] == ["events.out.tfevents.crosslayer"]
