"""Detectors through the command line: what a run leaves, how it goes on, what is found, what stops it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crosslayer.detection.average_precision import average_precision
from crosslayer.detection.recipe import DetectionRecipe, rate_factor
from crosslayer.detection.source import val_annotations
from crosslayer.errors import UsageError
from crosslayer.training.checkpoint import path_of, saved_steps
from crosslayer.training.recipes import RECIPES
from tests.conftest import shared

LIGHT = (
    *("--backbone", "mobilenetv3_small_050", "--graft", "--frozen-stages", -1, "--no-freeze-norm"),
    *("--image-size", 64, "--max-size", 96, "--pyramid-channels", 16, "--batch-size", 4),
    *("--epochs", 1, "--warmup-steps", 2, "--device", "cpu", "--workers", 0),
)


def train(crosslayer, data: Path, output: Path, *more: object, recipe: str = "coco_mask") -> str:
    code, out, err = crosslayer("train", recipe, "--data", data, "--output", output, *LIGHT, *more)
    assert code == 0, err
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    last = saved_steps(run / "checkpoints")[-1]
    return load_file(path_of(run / "checkpoints", last).with_suffix(".safetensors"))


def metrics(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]


def same(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, coco_set: Path) -> Path:
    from crosslayer.cli import main

    output = tmp_path_factory.mktemp("detectors") / "mask"
    words = ("train", "coco_mask", "--data", coco_set, "--output", output, *LIGHT, "--epochs", 2, "--save-steps", 1)
    assert main([str(word) for word in words]) == 0
    return output


def test_what_a_run_leaves(run: Path):
    rows = metrics(run)
    assert [row["step"] for row in rows] == [2, 4]
    losses = {"loss", "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}
    sizes = {"", "50", "75", "_small", "_medium", "_large"}
    precisions = {f"val/{kind}ap{size}" for kind in ("", "mask_") for size in sizes}
    assert rows[0].keys() == {"epoch", "step", "lr"} | {f"train/{name}" for name in losses} | precisions
    parts = sum(rows[0][f"train/{name}"] for name in losses - {"loss"})
    assert rows[0]["train/loss"] == pytest.approx(parts, rel=1e-6)
    assert rows[0]["val/ap_large"] is None
    stored = json.loads((run / "recipe.json").read_text())
    assert (stored["task"], stored["name"]) == ("detection", "coco_mask")
    assert stored["data"]["classes"] == ["bar", "square", "rare"]
    assert stored["data"]["category_ids"] == [3, 7, 90]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["parameters"] >= summary["learning_parameters"] > 1_000_000
    assert "val/mask_ap" in summary["last"]
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((run / "tensorboard").glob("events*"))) == 1


MORE = [(), ("--jitter", 64), ("--multi-scale", 48, 80, "--accumulate", 2, "--ema", 0.9)]


@pytest.mark.parametrize("more", MORE)
@pytest.mark.exhaustive
def test_resume_within_an_epoch_continues_to_the_bit(crosslayer, coco_set: Path, tmp_path: Path, more: tuple):
    train(crosslayer, coco_set, tmp_path / "whole", "--epochs", 2, "--drop-path", 0.2, *more)
    train(crosslayer, coco_set, tmp_path / "parts", "--epochs", 2, "--drop-path", 0.2, *more, "--max-steps", 1)
    words = ("--resume", tmp_path / "parts", "--max-steps", 4, "--device", "cpu", "--workers", 1)
    code, _, err = crosslayer("train", *words)
    assert code == 0, err
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_a_run_of_the_library_begins_where_a_classifier_ended(crosslayer, image_tree: Path, coco_set, tmp_path: Path):
    classifier, detector = tmp_path / "classifier", tmp_path / "detector"
    words = ("--data", image_tree, "--output", classifier, "--epochs", 1, "--batch-size", 4, "--image-size", 32)
    quick = ("--device", "cpu", "--workers", 0, "--no-pretrained", "--warmup-epochs", 0, "--mixup", 0)
    network = ("--backbone", "mobilenetv3_small_050", "--mechanism", "dla_l")
    assert crosslayer("train", "finetune", *words, *quick, *network)[0] == 0
    words = ("--data", coco_set, "--output", detector, *LIGHT, "--weights", classifier, "--max-steps", 1)
    frozen = ("--frozen-stages", 4, "--freeze-norm")
    code, _, err = crosslayer("train", "coco_faster", *words, *frozen)
    assert code == 0, err
    ours, theirs = weights(detector), weights(classifier)
    shared_names = [name for name in theirs if f"backbone.body.model.{name}" in ours]
    assert any("mechanism" in name for name in shared_names)
    assert all(torch.equal(ours[f"backbone.body.model.{name}"], theirs[name]) for name in shared_names)


def test_evaluate(crosslayer, run: Path, tmp_path: Path):
    code, out, err = crosslayer("evaluate", run, "--output", tmp_path, "--device", "cpu", "--workers", 0)
    assert code == 0, err
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    last = metrics(run)[-1]
    assert figures["boxes"]["ap"] == pytest.approx(last["val/ap"])
    assert figures["masks"]["ap75"] == pytest.approx(last["val/mask_ap75"])
    assert figures["boxes"]["per_category"].keys() == {"bar", "square", "rare"}
    assert figures["boxes"]["per_category"]["rare"] is None
    assert figures["objects"] == {"bar": 4, "square": 4, "rare": 0}
    assert figures["images"] == 4
    assert "AP of masks" in out


def test_evaluate_refuses_other_categories(crosslayer, run: Path, coco_set: Path, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(coco_set, other)
    file = other / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text().replace('"bar"', '"beam"'))
    code, _, err = crosslayer("evaluate", run, "--data", other, "--device", "cpu")
    assert code == 2
    assert "has 3 categories (beam, …), the run was trained on 3 (bar, …)" in err
    code, _, err = crosslayer("train", "coco_mask", "--data", other, "--output", tmp_path / "run", *LIGHT)
    assert code == 2
    assert "have different categories" in err
    assert not (tmp_path / "run").exists()


def test_predict(crosslayer, run: Path, coco_set: Path, tmp_path: Path):
    files = sorted((coco_set / "val2017").iterdir())[:2]
    words = ("--output", tmp_path, "--device", "cpu")
    code, out, err = crosslayer("predict", run, *files, *words, "--threshold", 0.0)
    assert code == 0, err
    assert "%" in out
    for file in files:
        assert (tmp_path / f"{file.stem}.png").read_bytes().startswith(b"\x89PNG")
    code, as_json, err = crosslayer("predict", run, *files, *words, "--threshold", 0.0, "--json")
    assert code == 0
    assert err == out
    images = json.loads(as_json)["images"]
    assert [image["file"] for image in images] == [str(file) for file in files]
    assert sum(len(image["objects"]) for image in images) == sum("%" in line for line in out.splitlines())
    code, out, _ = crosslayer("predict", run, files[0], *words, "--threshold", 1)
    assert code == 0
    assert "nothing with a score of at least 1" in out
    code, _, err = crosslayer("predict", run, files[0], *words, "--threshold", 2)
    assert (code, "it is a score from 0 to 1" in err) == (2, True)
    code, _, err = crosslayer("predict", run, tmp_path / "none.png", *words)
    assert (code, "there is no image file" in err) == (2, True)


def test_attention_and_compare(crosslayer, run: Path, coco_set: Path, tmp_path: Path):
    picture = next((coco_set / "val2017").iterdir())
    for words in ((run,), (run, picture)):
        code, _, err = crosslayer("attention", *words, "--output", tmp_path / "drawn", "--count", 2, "--device", "cpu")
        assert code == 0, err
        (content,) = json.loads((tmp_path / "drawn" / "attention.json").read_text())
        assert [len(matrix) for matrix in content["stages"]] == [2, 3, 2, 3]
        assert all(sum(row) == pytest.approx(1) for matrix in content["stages"] for row in matrix)
    code, out, err = crosslayer("compare", run)
    assert code == 0, err
    assert "last score" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--frozen-stages", 1), "this recipe freezes a part of the backbone, which has no weights yet"),
        (("--freeze-norm",), "give --weights (a run, a file, or a name of timm's)"),
        (("--frozen-stages", 7), "--frozen-stages is 7; it is from -1 (nothing) to 4 (all)"),
        (("--multi-scale", 48, "--jitter", 64), "two ways to scale images"),
        (("--max-size", 40), "--max-size is 40; it must be at least --image-size 64"),
        (("--image-size", 8), "--image-size is 8; it must be at least 32"),
        (("--weights", "none.pth"), "there is no such run directory, no such file"),
        (("--backbone", "vgg11"), "nothing repeats in VGG"),
        (("--mechanism", "rla_g"), "reaches into a network's blocks"),
        (("--data", "no/such/folder"), "--data no/such/folder: it does not exist"),
        (("--batch-size", 400), "fewer than one batch of 400"),
        (("--lr", 0), "--lr is 0.0; it must be above 0"),
        (("--milestones", 3, 2), "--milestones are (3, 2); they must be rising epochs"),
    ],
)
def test_bad_options_are_one_sentence(crosslayer, coco_set: Path, tmp_path: Path, words: tuple, message: str):
    given = ("--data", coco_set, "--output", tmp_path / "run", *LIGHT, *words)
    code, _, err = crosslayer("train", "coco_faster", *given)
    assert (code, message in err, err.count("\n")) == (2, True, 1), err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_damaged_stops_the_run_with_its_name(crosslayer, coco_set, tmp_path: Path, workers: int):
    """In its turn where only its pixels are; before the run begins, where it is no image or absent."""
    data = tmp_path / "data"
    shutil.copytree(coco_set, data)
    picture = data / "train2017" / "004.png"
    picture.write_bytes(picture.read_bytes()[:200])
    words = ("--data", data, "--output", tmp_path / "run", *LIGHT, "--workers", workers, "--epochs", 3)
    code, _, err = crosslayer("train", "coco_faster", *words)
    assert code == 1
    assert "train2017/004.png cannot be decoded as an image" in err
    picture.write_bytes(b"broken")
    words = (*words[:3], tmp_path / "other", *words[4:])
    code, _, err = crosslayer("train", "coco_faster", *words)
    assert code == 2
    assert "train2017/004.png cannot be decoded as an image" in err
    picture.unlink()
    code, _, err = crosslayer("train", "coco_faster", *words)
    assert code == 2
    assert "list 004.png (image 128), which is not in" in err
    assert not (tmp_path / "other").exists()


def test_the_papers_schedule():
    recipe = RECIPES["coco_faster"]()
    assert isinstance(recipe, DetectionRecipe)
    assert (recipe.lr, recipe.batch_size, recipe.momentum, recipe.weight_decay) == (0.02, 16, 0.9, 1e-4)
    assert (recipe.image_size, recipe.max_size, recipe.frozen_stages, recipe.freeze_norm) == (800, 1333, 1, True)
    assert (recipe.total_epochs, recipe.decays, recipe.warmup_steps) == (12, (8, 11), 500)
    twice = DetectionRecipe(schedule="2x", batch_size=8)
    assert (twice.total_epochs, twice.decays) == (24, (16, 22))
    factors = [rate_factor(twice, step, 1000) for step in (0, 250, 500, 15_999, 16_000, 22_000)]
    assert factors == pytest.approx([0.0005, 0.25025, 0.5, 0.5, 0.05, 0.005])


def test_other_options_of_a_resumed_run_are_refused(crosslayer, run: Path):
    for words in (("--schedule", "2x"), ("--frozen-stages", 0)):
        code, _, err = crosslayer("train", "--resume", run, *words)
        assert code == 2
        assert "a resumed run keeps its recipe" in err


def test_settings_are_checked_in_python_too():
    with pytest.raises(UsageError, match="--pyramid-channels is 0"):
        DetectionRecipe(pyramid_channels=0)


@pytest.mark.exhaustive
def test_two_processes_equal_one_that_accumulates(crosslayer, coco_set: Path, tmp_path: Path):
    """Weights agree within rounding; every image of the validation split is found in once."""
    options = ("--max-steps", 1, "--drop-path", 0.2)
    words = ["train", "coco_mask", "--data", coco_set, "--output", tmp_path / "two", *LIGHT, *options]
    launch = ["--nproc-per-node", "2", "--master-port", "29631", "-m", "crosslayer", *map(str, words)]
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *launch],
        check=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    train(crosslayer, coco_set, tmp_path / "one", *options, "--accumulate", 2)
    two, one = (weights(tmp_path / name) for name in ("two", "one"))
    for name, value in one.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    rows = [metrics(tmp_path / name)[0] for name in ("two", "one")]
    assert rows[0]["train/loss"] == pytest.approx(rows[1]["train/loss"], rel=1e-5)


def test_every_image_is_evaluated_once_whatever_the_processes(coco_set: Path):
    """Each process's share, as `detect_all` deals them, together: no image twice or lost, the same figures."""
    from types import SimpleNamespace

    from crosslayer.detection.evaluation import detect_all

    class Oracle(torch.nn.Module):
        """Finds in every image one box of its own size."""

        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            return [
                {
                    "boxes": torch.tensor([[0.0, 0, image.shape[2], image.shape[1]]]),
                    "labels": torch.tensor([1]),
                    "scores": torch.tensor([0.5]),
                }
                for image in images
            ]

    val = val_annotations(str(coco_set), masks=False)
    found = {}
    for processes in (1, 3):
        shares = []
        for index in range(processes):
            accelerator = SimpleNamespace(
                process_index=index,
                num_processes=processes,
                device=torch.device("cpu"),
                autocast=lambda: torch.autocast("cpu", enabled=False),
            )
            shares += detect_all(Oracle(), val, accelerator, 0)
        assert sorted(each["image_id"] for each in shares) == sorted(val.ids)
        sizes = dict(zip(val.ids, val.sizes.tolist(), strict=True))
        assert all(each["bbox"][2:] == sizes[each["image_id"]] for each in shares)
        found[processes] = average_precision(val.truth, shares, "bbox").figures
    assert found[1] == found[3]


@pytest.mark.parametrize("precision", ["bf16"])
def test_mixed_precision(crosslayer, coco_set: Path, tmp_path: Path, precision: str):
    train(crosslayer, coco_set, tmp_path / "run", "--precision", precision)
    assert all(value.dtype == torch.float32 for name, value in weights(tmp_path / "run").items() if "conv" in name)


@pytest.mark.exhaustive
def test_real_coco(crosslayer, tmp_path: Path):
    """One step over real photographs of all kinds, crowds among them."""
    out = train(crosslayer, shared("coco_tiny"), tmp_path / "run", "--max-steps", 1)
    assert "80 train images with 699 objects and 80 val images of 80 categories" in out
