"""Recipes that stand in files: what they say, what overrides them, what is refused before anything is written."""

import dataclasses
import json
from pathlib import Path

import pytest

from crosslayer.errors import UsageError
from crosslayer.training.recipe_file import read_recipe_file
from crosslayer.training.recipes import RECIPES
from tests.conftest import QUICK

SAME = {
    "r.toml": 'name = "cifar100"\nlr = 1e-4\nepochs = 3\nmilestones = [1, 2]\nflip = false\ncompile = "on"\n',
    "r.yaml": "name: cifar100\nlr: 1e-4\nepochs: 3\nmilestones: [1, 2]\nflip: false\ncompile: on\n",
    "r.yml": "name: cifar100\nrecipe:\n  lr: 0.0001\n  epochs: 3\n  milestones: [1, 2]\n  flip: no\n  compile: 'on'",
    "r.JSON": '{"name": "cifar100", "lr": 1e-4, "epochs": 3, "milestones": [1, 2], "flip": false, "compile": "on"}',
}


@pytest.mark.parametrize("name", SAME)
def test_all_formats_say_the_same(tmp_path: Path, name: str):
    (tmp_path / name).write_text(SAME[name])
    wanted = dataclasses.replace(RECIPES["cifar100"](), lr=1e-4, epochs=3, milestones=(1, 2), flip=False, compile="on")
    assert read_recipe_file(tmp_path / name) == ("cifar100", wanted)


def test_fields_stand_over_the_named_recipe(tmp_path: Path):
    (tmp_path / "r.toml").write_text("batch_size = 4\n")
    name, recipe = read_recipe_file(tmp_path / "r.toml", "coco_mask")
    assert (name, recipe) == ("coco_mask", dataclasses.replace(RECIPES["coco_mask"](), batch_size=4))


def test_a_runs_recipe_trains_again_and_options_override(crosslayer, image_tree: Path, tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    words = ("train", "--data", image_tree, "--mechanism", "se", "--options", "reduction=8", *QUICK)
    assert crosslayer(*words, "--output", first)[0] == 0
    words = ("train", "--recipe", first / "recipe.json", "--seed", 3, "--device", "cpu", "--output", second)
    code, _, err = crosslayer(*words)
    assert code == 0, err
    ours, theirs = (json.loads((run / "recipe.json").read_text()) for run in (second, first))
    assert ours["recipe"].pop("seed") == 3
    assert theirs["recipe"].pop("seed") == 0
    assert ours == theirs


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("r.toml", "epoch = 3", "unknown field 'epoch'; did you mean epochs"),
        ("r.yaml", "recipe: {lrr: 3}", "unknown field 'lrr'; did you mean lr?"),
        ("r.yaml", "lr: fast", "field 'lr': expected `float`, got `str`"),
        ("r.json", '{"milestones": [1, "x"]}', "field 'milestones': expected `int`, got `str`"),
        ("r.yaml", "lr: {a: 1}", "field 'lr': expected `float`, got `object`"),
        ("r.yaml", "name: [digits]", "field 'name': unknown recipe"),
        ("r.toml", "epochs = true", "field 'epochs': expected `int`, got `bool`"),
        ("r.toml", "epochs = 0", "--epochs is 0; it must be at least 1"),
        ("r.yaml", "lr: .nan", "--lr is nan; it must be a finite number"),
        ("r.toml", 'name = "digitz"', "field 'name': unknown recipe 'digitz'; did you mean digits"),
        ("r.toml", 'task = "detection"', "field 'task': recipe 'digits' is of classification"),
        ("r.json", '{"recipe": {"lr": 1}, "epochs": 3}', "a run's record has no field 'epochs'"),
        ("r.toml", "epochs = [", "it is no TOML"),
        ("r.yaml", "a: [", "it is no YAML"),
        ("r.yaml", "!!python/object/apply:os.getcwd []", "it is no YAML"),
        ("r.json", "{", "it is no JSON"),
        ("r.yaml", "", "it has no fields"),
        ("r.yaml", "- lr", "it has no fields"),
        ("r.yaml", "3: 4", "unknown field '3'"),
        ("r.ini", "lr = 1", "its name must end in one of .json, .toml"),
    ],
)
def test_what_is_wrong_is_named(crosslayer, tmp_path: Path, file: str, content: str, sentence: str):
    (tmp_path / file).write_text(content)
    code, out, err = crosslayer("train", "--recipe", tmp_path / file, "--output", tmp_path / "run")
    assert (code, out) == (2, "")
    assert str(tmp_path / file) in err
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_and_two_sources(crosslayer, tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_recipe_file(tmp_path / "absent.toml")
    (tmp_path / "r.toml").write_text('name = "digits"')
    with pytest.raises(UsageError, match="it is of recipe 'digits', not 'imagenet'"):
        read_recipe_file(tmp_path / "r.toml", "imagenet")
    code, _, err = crosslayer("train", "--recipe", tmp_path / "r.toml", "--resume", tmp_path)
    assert code == 2
    assert "leave --recipe out" in err
