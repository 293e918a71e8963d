"""Trainings on random resized crops, with everything on: resumed to the bit, from within an epoch too."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from crosslayer.training.checkpoint import load_checkpoint, path_of, saved_steps
from tests.conftest import QUICK

EVERYTHING = (
    *("imagenet", "--backbone", "cifar_resnet20", "--warmup-epochs", 0, "--drop-path", 0.2),
    *("--crop-scale", 0.3, "--rand-augment", "rand-m9-mstd0.5-inc1", "--mixup", 0.4, "--cutmix", 1.0),
    *("--ema", 0.9, "--schedule", "cosine", "--label-smoothing", 0.1, "--optimizer", "adamw", "--lr", 0.01),
)
SMALL = ("--epochs", 2, "--batch-size", 4, "--image-size", 8, "--device", "cpu", "--workers", 0)


def train(crosslayer, tree: Path, output: Path, *more: object) -> None:
    code, _, err = crosslayer("train", *EVERYTHING, "--data", tree, "--output", output, *SMALL, *more)
    assert code == 0, err


def kept(run: Path) -> dict:
    return load_checkpoint(path_of(run / "checkpoints", saved_steps(run / "checkpoints")[-1]))


def rows(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in lines]


def assert_same(a: Path, b: Path) -> None:
    for part in ("model", "raw"):
        ours, theirs = kept(a)[part], kept(b)[part]
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert rows(a) == rows(b)


@pytest.fixture(scope="module")
def whole(image_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from crosslayer.cli import main

    run = tmp_path_factory.mktemp("whole") / "run"
    assert main([str(word) for word in ("train", *EVERYTHING, "--data", image_tree, "--output", run, *SMALL)]) == 0
    return run


@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.sampled(2)
def test_resume_continues_to_the_bit(crosslayer, image_tree: Path, tmp_path: Path, whole: Path, step: int):
    run = tmp_path / "run"
    train(crosslayer, image_tree, run, "--max-steps", step)
    code, _, err = crosslayer("train", "--resume", run, "--max-steps", 8, "--device", "cpu", "--workers", 1)
    assert code == 0, err
    assert_same(whole, run)


def test_saving_within_an_epoch(crosslayer, image_tree: Path, tmp_path: Path, whole: Path):
    run = tmp_path / "run"
    train(crosslayer, image_tree, run, "--save-steps", 3)
    assert_same(whole, run)
    assert saved_steps(run / "checkpoints")[-2:] == [6, 8]
    path_of(run / "checkpoints", 8).unlink()  # as after a crash in the second epoch
    assert load_checkpoint(path_of(run / "checkpoints", 6))["progress"]["step_in_epoch"] == 2
    assert crosslayer("train", "--resume", run, "--device", "cpu", "--workers", 0)[0] == 0
    assert_same(whole, run)


def test_a_cosine_is_not_extended(crosslayer, whole: Path):
    code, _, err = crosslayer("train", "--resume", whole, "--epochs", 3)
    assert code == 2
    assert "has a rate that falls to zero over --epochs 2 and cannot be given others" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["imagenet", "imagenet_fast", "finetune"])
def test_recipes_without_data_say_so(crosslayer, tmp_path: Path, name: str):
    words = ("--backbone", "cifar_resnet20", "--no-graft", "--no-pretrained", "--no-freeze-norm")
    words += ("--freeze-epochs", 0, "--graft-lr", "None", "--output", tmp_path / "run", "--device", "cpu")
    code, _, err = crosslayer("train", name, *words)
    assert code == 2
    assert f"recipe {name} has no data of its own: give --data a folder, or hf://OWNER/NAME" in err
    assert not (tmp_path / "run").exists()


def test_resized_crops_are_not_kept_resident(crosslayer, image_tree: Path, tmp_path: Path):
    words = ("--crop", "resized", "--loader", "resident", "--data", image_tree, "--output", tmp_path / "run")
    code, _, err = crosslayer("train", *words, *QUICK)
    assert code == 2
    assert "--loader resident keeps images of one size" in err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_stops_with_its_name(crosslayer, image_tree: Path, tmp_path: Path, workers: int):
    data = tmp_path / "data"
    shutil.copytree(image_tree, data)
    (data / "train" / "dark" / "3.png").write_bytes(b"broken")
    facts = ("--data", data, "--output", tmp_path / "run", *SMALL, "--workers", workers)
    code, _, err = crosslayer("train", *EVERYTHING, *facts)
    assert code == 1
    assert "train/dark/3.png cannot be decoded as an image" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("position", ["first", "middle", "last"])
def test_the_recipe_may_stand_anywhere(crosslayer, image_tree: Path, tmp_path: Path, position: str):
    words: list[object] = ["--max-steps", 1, "--output", tmp_path / "run", *QUICK, "--no-flip", "--data", image_tree]
    words.insert({"first": 0, "middle": words.index("--data"), "last": len(words)}[position], "cifar100")
    code, _, err = crosslayer("train", *words)
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["name"] == "cifar100"


def test_a_value_is_not_taken_for_the_recipe(crosslayer, tmp_path: Path):
    words = ("--max-steps", 1, "--output", tmp_path / "run", *QUICK, "--epochs", 1, "--data", "digits")
    assert crosslayer("train", *words)[0] == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["name"] == "digits"
