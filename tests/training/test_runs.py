"""Whole trainings through the command line: what they leave, how they go on, what stops them."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crosslayer.training.checkpoint import path_of, saved_steps
from crosslayer.training.recipes import RECIPES
from tests.conftest import QUICK

ROW = {"epoch", "step", "lr", "train/loss", "train/top1", "val/loss", "val/top1", "val/top5", "images_per_second"}


def train(crosslayer, tree: Path, output: Path, *more: object) -> str:
    code, out, err = crosslayer("train", "--data", tree, "--output", output, *QUICK, *more)
    assert code == 0, err
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    last = saved_steps(run / "checkpoints")[-1]
    return load_file(path_of(run / "checkpoints", last).with_suffix(".safetensors"))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_what_a_run_leaves(crosslayer, image_tree: Path, tmp_path: Path):
    run = tmp_path / "run"
    out = train(crosslayer, image_tree, run, "--epochs", 4, "--mechanism", "se")
    assert len(re.findall(r"epoch +\d/4", out)) == 4
    rows = metrics(run)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert all(row.keys() == ROW for row in rows)
    assert all(row["step"] == 2 * row["epoch"] for row in rows)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["parameters"] > 200_000
    assert summary["macs"] > 1_000_000
    assert summary["last"]["val/top1"] == rows[-1]["val/top1"]
    assert summary["best"]["val/top1"] == max(row["val/top1"] for row in rows)
    assert {"seed", "versions", "commit", "machine", "wall_seconds"} <= summary.keys()
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["recipe"]["mechanism"] == "se"
    assert recipe["data"]["classes"] == ["bright", "dark"]
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((run / "tensorboard").glob("events*"))) == 1
    best = max(rows, key=lambda row: row["val/top1"])["step"]
    assert saved_steps(run / "checkpoints") == sorted({best, 6, 8})
    assert not list(run.rglob("*.partial"))


@pytest.mark.parametrize("mechanism", ["dla_l", "dla_b"])
@pytest.mark.sampled(2)
def test_resume_continues_to_the_bit(crosslayer, image_tree: Path, tmp_path: Path, mechanism: str):
    options = ("--mechanism", mechanism, "--drop-path", 0.2)
    train(crosslayer, image_tree, tmp_path / "four", *options, "--epochs", 4)
    train(crosslayer, image_tree, tmp_path / "two", *options, "--epochs", 2)
    code, _, err = crosslayer("train", "--resume", tmp_path / "two", "--epochs", 4, "--device", "cpu")
    assert code == 0, err
    assert same(weights(tmp_path / "four"), weights(tmp_path / "two"))
    for a, b in zip(metrics(tmp_path / "four"), metrics(tmp_path / "two"), strict=True):
        assert {k: v for k, v in a.items() if k != "images_per_second"} == {
            k: v for k, v in b.items() if k != "images_per_second"
        }
    assert json.loads((tmp_path / "two" / "recipe.json").read_text())["recipe"]["epochs"] == 4


def test_resume_within_an_epoch_continues_to_the_bit(crosslayer, image_tree: Path, tmp_path: Path):
    options = ("--drop-path", 0.2, "--batch-size", 4, "--epochs", 2)
    train(crosslayer, image_tree, tmp_path / "whole", *options)
    train(crosslayer, image_tree, tmp_path / "parts", *options, "--max-steps", 3)
    assert saved_steps(tmp_path / "parts" / "checkpoints") == [3]
    code, _, err = crosslayer("train", "--resume", tmp_path / "parts", "--max-steps", 8, "--device", "cpu")
    assert code == 0, err
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    for a, b in zip(metrics(tmp_path / "whole"), metrics(tmp_path / "parts"), strict=True):
        assert a["train/loss"] == b["train/loss"]


def test_streamed_training_is_the_same(crosslayer, image_tree: Path, tmp_path: Path):
    train(crosslayer, image_tree, tmp_path / "resident")
    train(crosslayer, image_tree, tmp_path / "streamed", "--loader", "stream", "--workers", 3)
    assert same(weights(tmp_path / "resident"), weights(tmp_path / "streamed"))


def test_resuming_a_finished_run_says_so(crosslayer, image_tree: Path, tmp_path: Path):
    train(crosslayer, image_tree, tmp_path / "run", "--max-steps", 1)
    before = weights(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()  # as if it had been stopped between its last save and its summary
    code, out, _ = crosslayer("train", "--resume", tmp_path / "run")
    assert code == 0
    assert "already trained to step 1 of 1" in out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 1
    assert same(before, weights(tmp_path / "run"))


@pytest.mark.parametrize("precision", ["bf16"])
def test_mixed_precision_trains(crosslayer, image_tree: Path, tmp_path: Path, precision: str):
    train(crosslayer, image_tree, tmp_path / "run", "--precision", precision)
    assert weights(tmp_path / "run")["fc.weight"].dtype == torch.float32


def test_options_reach_the_mechanism(crosslayer, image_tree: Path, tmp_path: Path):
    train(crosslayer, image_tree, tmp_path / "run", "--options", "cell=paper", "reduction=8", "stage_convolution=false")
    assert "stages.0.mechanism.cell.squeeze.weight" in weights(tmp_path / "run")
    assert "stages.0.mechanism.stage_kernel" not in weights(tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digitz",), "unknown recipe 'digitz'; did you mean digits"),
        (("--mechanism", "dla_x"), "unknown mechanism 'dla_x'; did you mean dla_"),
        (("--backbone", "cifar_resnet_20"), "unknown backbone 'cifar_resnet_20'; did you mean cifar_resnet20"),
        (("--options", "cel=paper"), "mechanism 'dla_l' has no option 'cel'; it has: cell"),
        (("--options", "cell=papr"), "it is one of dsu, released, paper, dia, lstm, rnn; did you mean paper?"),
        (("--options", "reduction=four"), "--options reduction=four: the value must be whole numbers"),
        (("--options", "cell"), "write it as NAME=VALUE"),
        (("--data", "no/such/folder"), "the folder does not exist"),
        (("--device", "cuda:7"), "CUDA devices; use --device cpu"),
        (("--device", "gpu"), "it is auto, cpu, cuda, cuda:N or mps"),
        (("--precision", "fp16", "--device", "cpu"), "needs a GPU"),
        (("--batch-size", "5000"), "fewer than one batch of 5000"),
        (("--batch-size", "0"), "--batch-size is 0; it must be at least 1"),
        (("--lr", "-1"), "--lr is -1.0; it must be above 0"),
        (("--drop-path", "1"), "must be in [0, 1)"),
        (("--resume", "no/such/run"), "does not exist"),
        (("--workers", "-1"), "--workers is -1"),
    ],
)
def test_bad_options_are_one_sentence(crosslayer, tmp_path: Path, words: tuple[str, ...], message: str):
    output = () if "--resume" in words else ("--output", tmp_path / "run")
    code, _, err = crosslayer("train", *words, *output)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_misspelt_option_is_a_usage_error(crosslayer, tmp_path: Path):
    code, out, err = crosslayer("train", "--epocs", "3", "--output", tmp_path / "run")
    assert code == 2
    assert "--epochs" in out + err


def test_a_directory_in_use_is_kept(crosslayer, image_tree: Path, tmp_path: Path):
    run = tmp_path / "run"
    train(crosslayer, image_tree, run)
    before = (run / "summary.json").read_bytes()
    code, _, err = crosslayer("train", "--data", image_tree, "--output", run, *QUICK)
    assert code == 2
    assert "already holds a run; give --overwrite, another --output, or --resume" in err
    assert (run / "summary.json").read_bytes() == before
    # Not even --overwrite loses a run before the new one can start.
    code, _, _ = crosslayer("train", "--data", tmp_path / "absent", "--output", run, "--overwrite", *QUICK)
    assert code == 2
    assert (run / "summary.json").read_bytes() == before
    train(crosslayer, image_tree, run, "--overwrite", "--seed", 3)
    assert json.loads((run / "recipe.json").read_text())["recipe"]["seed"] == 3


def test_a_folder_of_other_files_is_not_written_into(crosslayer, image_tree: Path, tmp_path: Path):
    (tmp_path / "letter.txt").write_text("dear")
    code, _, err = crosslayer("train", "--data", image_tree, "--output", tmp_path, *QUICK)
    assert code == 2
    assert "holds other files" in err
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_another_recipe_is_refused(crosslayer, image_tree: Path, tmp_path: Path):
    run = tmp_path / "run"
    train(crosslayer, image_tree, run)
    code, _, err = crosslayer("train", "cifar100", "--resume", run)
    assert code == 2
    assert "was made by recipe 'digits', not 'cifar100'" in err
    code, _, err = crosslayer("train", "--resume", run, "--batch-size", 4, "--epochs", 2)
    assert code == 2
    assert "was made with --batch-size 8; a resumed run keeps its recipe" in err


def test_truncated_and_foreign_checkpoints(crosslayer, image_tree: Path, tmp_path: Path):
    run = tmp_path / "run"
    train(crosslayer, image_tree, run)
    file = path_of(run / "checkpoints", 2)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    for words in (("evaluate", run), ("train", "--resume", run, "--epochs", 2)):
        code, _, err = crosslayer(*words)
        assert code == 1
        assert f"checkpoint {file} is truncated or damaged" in err
    torch.save({"weights": torch.zeros(2)}, file)
    code, _, err = crosslayer("evaluate", run)
    assert code == 1
    assert "not a checkpoint of this version" in err
    file.write_bytes(whole)
    other = tmp_path / "other"
    train(crosslayer, image_tree, other, "--mechanism", "none")
    shutil.copy(path_of(other / "checkpoints", 2), file)
    code, _, err = crosslayer("evaluate", run)
    assert code == 1
    assert "does not fit the recipe of its run" in err
    code, _, err = crosslayer("train", "--resume", run, "--epochs", 2)
    assert code == 1
    assert "does not fit the recipe of its run" in err


def test_damaged_run_files_are_named(crosslayer, image_tree: Path, tmp_path: Path):
    run = tmp_path / "run"
    train(crosslayer, image_tree, run)
    for name, command in (
        ("summary.json", ("compare", run)),
        ("metrics.jsonl", ("train", "--resume", run, "--epochs", 2)),
        ("recipe.json", ("evaluate", run)),
    ):
        content = (run / name).read_text()
        (run / name).write_text(content[:-20])
        code, _, err = crosslayer(*command)
        assert code == 1
        assert f"{run / name} is damaged" in err
        (run / name).write_text(content)
    (run / "recipe.json").write_text('{"name": "digits", "recipe": {"optimizer": "lion"}, "data": {}}')
    code, _, err = crosslayer("evaluate", run)
    assert code == 1
    assert "is of another version of crosslayer" in err


def test_corrupt_image_stops_before_anything_is_written(crosslayer, image_tree: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(image_tree, data)
    (data / "train" / "dark" / "3.png").write_bytes(b"broken")
    code, _, err = crosslayer("train", "--data", data, "--output", tmp_path / "run", *QUICK)
    assert code == 1
    assert "train/dark/3.png cannot be decoded as an image" in err
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_names_its_step(crosslayer, image_tree: Path, tmp_path: Path, monkeypatch):
    run = tmp_path / "run"
    train(crosslayer, image_tree, run)
    kept = weights(run)
    real = torch.nn.functional.cross_entropy

    def third(*arguments: object, **options: object) -> torch.Tensor:
        third.calls += 1
        return real(*arguments, **options) * (float("nan") if third.calls == 2 else 1)

    third.calls = 0
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", third)
    code, _, err = crosslayer("train", "--resume", run, "--epochs", 3, "--device", "cpu")
    assert code == 1
    assert "the loss became nan at step 4 (epoch 2)" in err
    assert str(path_of(run / "checkpoints", 2)) in err
    assert same(kept, weights(run))


@pytest.mark.exhaustive
def test_full_disk_is_told_and_loses_nothing(image_tree: Path, tmp_path: Path):
    """A limit on the size of files stands for the disk: a checkpoint (2 MB) cannot be written, smaller files can."""
    command = [sys.executable, "-m", "crosslayer", "train", "--data", image_tree, "--output", tmp_path / "run", *QUICK]

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    done = subprocess.run(
        [str(word) for word in command], preexec_fn=limited, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot write" in done.stderr
    assert "step-00000002.safetensors" in done.stderr
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.sampled(2)
def test_signals_save_and_exit(crosslayer, image_tree: Path, tmp_path: Path, number: signal.Signals):
    run = tmp_path / "run"
    words = ["train", "--data", image_tree, "--output", run, *QUICK, "--epochs", 1000]
    process = subprocess.Popen(
        [sys.executable, "-m", "crosslayer", *map(str, words)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "saved; go on with: crosslayer train --resume" in err
    assert "Traceback" not in err
    step = saved_steps(run / "checkpoints")[-1]
    code, _, err = crosslayer("train", "--resume", run, "--max-steps", step + 1, "--device", "cpu")
    assert code == 0, err
    assert saved_steps(run / "checkpoints")[-1] == step + 1


@pytest.mark.exhaustive
def test_two_processes_equal_one_that_accumulates(image_tree: Path, tmp_path: Path, crosslayer):
    """Gradients (as the momentum of the first step) and weights agree within rounding."""
    options = ("--mechanism", "dla_l", "--drop-path", 0.2, "--max-steps", 1, *QUICK)
    words = ["train", "--data", image_tree, "--output", tmp_path / "two", *options]
    launch = ["--nproc-per-node", "2", "--master-port", "29617", "-m", "crosslayer", *map(str, words)]
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *launch],  # what `accelerate launch` itself runs
        check=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    train(crosslayer, image_tree, tmp_path / "one", *options, "--accumulate", 2)
    states = [torch.load(path_of(tmp_path / name / "checkpoints", 1)) for name in ("two", "one")]
    for two, one in zip(*(state["optimizer"]["state"].values() for state in states), strict=True):
        torch.testing.assert_close(two["momentum_buffer"], one["momentum_buffer"], rtol=1e-4, atol=1e-6)
    two, one = (state["model"] for state in states)
    for name, value in one.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
    rows = [metrics(tmp_path / name)[0] for name in ("two", "one")]
    assert rows[0]["train/loss"] == pytest.approx(rows[1]["train/loss"], rel=1e-5)
    assert rows[0]["train/top1"] == rows[1]["train/top1"]


@pytest.mark.parametrize(("name", "milestones"), [("cifar10", (100, 150)), ("cifar100", (100, 150))])
def test_paper_recipes(name: str, milestones: tuple[int, ...]):
    recipe = RECIPES[name]()
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.weight_decay) == (180, 128, 0.1, 1e-4)
    assert (recipe.milestones, recipe.drop_path, recipe.pad, recipe.flip) == (milestones, 0.2, 4, True)


@pytest.mark.parametrize("name", ["imagenet_efficientnet", "imagenet_pvt"])
def test_recipes_of_grafts_from_the_start(crosslayer, image_tree: Path, tmp_path: Path, name: str):
    few = ("--image-size", 32, "--eval-crop", 1, "--batch-size", 4, "--workers", 0, "--max-steps", 2, "--no-fused")
    words = ("--data", image_tree, "--mechanism", "mrla_l", "--precision", "fp32", "--device", "cpu", *few)
    code, _, err = crosslayer("train", name, *words, "--output", tmp_path / "run")
    assert code == 0, err
    state = torch.load(path_of(tmp_path / "run" / "checkpoints", 2))["optimizer"]
    moments = {"square_avg", "momentum_buffer"} if "efficientnet" in name else {"exp_avg", "exp_avg_sq"}
    assert moments < set(next(iter(state["state"].values())))
    assert {group["weight_decay"] for group in state["param_groups"]} == {0, RECIPES[name]().weight_decay}


@pytest.mark.compiled
def test_compiled_training(crosslayer, image_tree: Path, tmp_path: Path):
    train(crosslayer, image_tree, tmp_path / "run", "--compile", "on", "--mechanism", "se")
    assert "_orig_mod" not in "".join(weights(tmp_path / "run"))
