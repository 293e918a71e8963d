"""Runs that end when the score on the validation split has not risen for some epochs."""

import dataclasses
import json
from pathlib import Path

import pytest

from crosslayer.training.recipes import RECIPES
from crosslayer.training.schedule import out_of_patience
from tests.conftest import QUICK
from tests.training.test_runs import metrics, same, weights


@pytest.mark.parametrize(
    ("patience", "scores", "ends"),
    [
        (None, [3, 2, 1], False),
        (1, [], False),
        (1, [50], False),
        (1, [50, 50], True),
        (1, [50, 51], False),
        (2, [50, 49], False),
        (2, [50, 49, 50], True),
        (2, [50, 49, 51], False),
        (2, [50, 51, 49, 51], True),
        (3, [10, 40, 20, 30], False),
        (3, [10, 40, 20, 30, 39], True),
    ],
)
def test_epochs_without_a_better_score(patience: int | None, scores: list[float], ends: bool):
    assert out_of_patience(dataclasses.replace(RECIPES["digits"](), patience=patience), scores) is ends


def test_a_run_ends_early_and_a_resumed_one_there_too(crosslayer, image_tree: Path, tmp_path: Path):
    """The rate is so small that the score never changes: with patience 2 the third epoch is the last."""
    words = ("train", "--data", image_tree, *QUICK, "--epochs", 9, "--lr", 1e-12, "--patience", 2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    code, _, err = crosslayer(*words, "--output", whole)
    assert code == 0, err
    summary = json.loads((whole / "summary.json").read_text())
    assert (summary["epochs"], summary["patience"], summary["stopped_early"]) == (3, 2, True)
    assert len(metrics(whole)) == 3
    # stopped within the third epoch, whose row counts only once it is whole
    assert crosslayer(*words, "--output", parts, "--max-steps", 5)[0] == 0
    summary = json.loads((parts / "summary.json").read_text())
    assert (summary["epochs"], summary["stopped_early"]) == (3, False)
    code, _, err = crosslayer("train", "--resume", parts, "--max-steps", 99, "--device", "cpu")
    assert code == 0, err
    assert same(weights(whole), weights(parts))
    ours, theirs = ([{**row, "images_per_second": 0} for row in metrics(run)] for run in (whole, parts))
    assert ours == theirs
    assert json.loads((parts / "summary.json").read_text())["stopped_early"] is True
    code, out, _ = crosslayer("train", "--resume", whole, "--device", "cpu")
    assert code == 0
    assert "was stopped by --patience 2; raise it to go on" in out
    code, out, err = crosslayer("train", "--resume", whole, "--patience", 3, "--device", "cpu")
    assert code == 0, err
    assert len(metrics(whole)) == 4


def test_patience_is_of_one_epoch_at_least(crosslayer, tmp_path: Path):
    code, _, err = crosslayer("train", "--patience", 0, "--output", tmp_path / "run")
    assert code == 2
    assert "--patience is 0; it must be at least 1" in err
