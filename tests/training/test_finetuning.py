"""The recipe `finetune`, from a file of weights to a prediction, on a small network of timm."""

import json
from pathlib import Path

import pytest
import timm
import torch

from crosslayer.training.grafting import grafted
from crosslayer.training.recipe import Recipe
from tests.conftest import QUICK

BACKBONE = "mobilenetv3_small_050"
OPTIONS = (
    "--backbone",
    BACKBONE,
    *QUICK[:-4],
    "--device",
    "cpu",
    "--workers",
    0,
    "--image-size",
    64,
    "--warmup-epochs",
    0,
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(timm.create_model(BACKBONE).state_dict(), file)
    return file


def recipe(**fields) -> Recipe:
    return Recipe(backbone=BACKBONE, graft=True, drop_path=0.0, **fields)


def test_a_fresh_classifier_says_nothing(weights: Path):
    model = grafted(recipe(weights=str(weights), mechanism="dla_l"), 3, begin=True).eval()
    assert not model(torch.randn(2, 3, 64, 64)).any()
    theirs = timm.create_model(BACKBONE)
    theirs.load_state_dict(torch.load(weights, weights_only=True))
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.forward_features(x), theirs.eval().forward_features(x))


def test_a_classifier_of_the_same_classes_is_kept(weights: Path):
    model = grafted(recipe(weights=str(weights), mechanism="none"), 1000, begin=True)
    assert torch.equal(model.classifier.weight, torch.load(weights, weights_only=True)["classifier.weight"])


def test_without_weights_the_classifier_starts_as_timm_has_it():
    assert grafted(recipe(mechanism="none"), 3, begin=True).classifier.weight.any()


def test_from_weights_to_predictions(crosslayer, image_tree: Path, weights: Path, tmp_path: Path):
    run, picture = tmp_path / "run", image_tree / "val" / "dark" / "0.png"
    words = ("--data", image_tree, "--weights", weights, "--output", run, *OPTIONS)
    code, out, err = crosslayer("train", "finetune", "--mechanism", "dla_l", *words)
    assert code == 0, err
    assert "dla_l on blocks.2: 3 blocks, 24 channels" in out
    assert json.loads((run / "recipe.json").read_text())["recipe"]["freeze_norm"] is True
    weights_file_is_not_needed_again = ("evaluate", run, "--device", "cpu"), ("predict", run, picture)
    for command in weights_file_is_not_needed_again:
        code, out, err = crosslayer(*command)
        assert code == 0, err
    assert "dark" in out
    code, _, err = crosslayer("attention", run, "--output", tmp_path / "drawn")
    assert code == 0, err
    (content,) = json.loads((tmp_path / "drawn" / "attention.json").read_text())
    assert [len(matrix) for matrix in content["stages"]] == [2, 3, 2, 3]


def test_refusals_are_sentences(crosslayer, image_tree: Path, weights: Path, tmp_path: Path):
    words = ("--data", image_tree, "--output", tmp_path / "run", *OPTIONS, "--weights", weights)
    for more, message in (
        (("--mechanism", "rla_g"), "reaches into a network's blocks"),
        (("--weights", "none.pth"), "there is no such file"),
        (("--backbone", "vgg11"), "nothing repeats in VGG"),
        (("--backbone", "mobilnetv3"), "unknown network of timm 'mobilnetv3'; did you mean mobilenetv3"),
    ):
        code, _, err = crosslayer("train", "finetune", *words, *more)
        assert (code, message in err, err.count("\n")) == (2, True, 1), err
