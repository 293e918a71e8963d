"""Compiled trainings: which ways there are, where each can be, and what each keeps of the plain one."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from crosslayer.training.learner import Learner, check_compilation
from crosslayer.training.recipe import Recipe
from crosslayer.training.run_directory import RunDirectory
from tests.cases import only
from tests.conftest import QUICK
from tests.training.test_runs import metrics, same, train, weights

CUDA = torch.cuda.is_available()
needs_cuda = pytest.mark.skipif(not CUDA, reason="no CUDA device here")


def test_graphs_need_a_gpu(crosslayer, image_tree: Path, tmp_path: Path):
    words = ("--data", image_tree, "--output", tmp_path / "run", *QUICK, "--compile", "graphs")
    code, _, err = crosslayer("train", *words)
    assert code == 2
    assert "--compile graphs needs a CUDA device, and this run is on cpu; use --compile on" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
    check_compilation(Recipe(compile="graphs"), torch.device("cuda", 0))
    check_compilation(Recipe(compile="on"), torch.device("cpu"))


def test_detectors_have_no_graphs(crosslayer, tmp_path: Path):
    code, _, err = crosslayer("train", "coco_faster", "--data", tmp_path, "--compile", "graphs")
    assert code == 2
    assert "--compile graphs needs images of one size" in err


@pytest.mark.parametrize(("stored", "meant"), [(False, "off"), (True, "on")])
def test_runs_from_before_there_was_a_choice(crosslayer, image_tree: Path, tmp_path: Path, stored: bool, meant: str):
    run = tmp_path / "run"
    train(crosslayer, image_tree, run)
    content = json.loads((run / "recipe.json").read_text())
    content["recipe"]["compile"] = stored
    (run / "recipe.json").write_text(json.dumps(content))
    assert RunDirectory(run).read()[1].compile == meant
    code, _, err = crosslayer("evaluate", run, "--device", "cpu")
    assert code == 0, err


def test_gradients_are_kept_from_the_next_pass():
    model = nn.Linear(2, 1)
    learner = Learner(model, torch.optim.SGD(model.parameters()), None, graphs=True)
    memory = torch.tensor([[1.0, 2.0]])
    model.weight.grad = memory
    learner.keep_gradients()
    memory.fill_(float("nan"))
    assert model.weight.grad.tolist() == [[1.0, 2.0]]
    assert model.bias.grad is None


@pytest.mark.compiled
@pytest.mark.parametrize("precision", only(["fp32", "bf16"], lambda precision: precision == "fp32"))
def test_one_graph_to_train_and_one_to_evaluate(
    crosslayer, image_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
):
    """Also in the second epoch, and whatever is left over of six images in batches of four."""
    compiled = nn.Module.compile

    def without_kernels(model: nn.Module, *, dynamic: bool, options: dict) -> None:
        """The graphs are what this is about, and kernels take a minute."""
        assert options == {"deterministic": True}
        compiled(model, dynamic=dynamic, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", without_kernels)
    counters = torch._dynamo.utils.counters
    counters.clear()
    options = ("--batch-size", 4, "--epochs", 2, "--mechanism", "dla_l", "--precision", precision)
    train(crosslayer, image_tree, tmp_path / "run", *options, "--drop-path", 0.2, "--compile", "on")
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


GPU = ("--device", "cuda", "--mechanism", "dla_l", "--drop-path", 0.2, "--batch-size", 4, "--epochs", 3)


@pytest.mark.cuda
@pytest.mark.compiled
@needs_cuda
@pytest.mark.parametrize("more", [(), ("--accumulate", 2), ("--precision", "bf16"), ("--precision", "fp16")])
def test_graphs_train_as_the_same_kernels_without(crosslayer, image_tree: Path, tmp_path: Path, more: tuple):
    """Twelve steps: the first run plainly, the second recorded, the others replayed, each with its own drop path."""
    for how in ("on", "graphs"):
        train(crosslayer, image_tree, tmp_path / how, *GPU, *more, "--compile", how)
    on, graphs = (metrics(tmp_path / how) for how in ("on", "graphs"))
    assert [row["train/loss"] for row in graphs] == pytest.approx([row["train/loss"] for row in on], rel=1e-3)
    ours, theirs = weights(tmp_path / "graphs"), weights(tmp_path / "on")
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.cuda
@pytest.mark.compiled
@needs_cuda
@pytest.mark.parametrize("more", [(), ("--accumulate", 2), ("--precision", "bf16", "--ema", 0.9)])
def test_graphs_resume_to_the_bit(crosslayer, image_tree: Path, tmp_path: Path, more: tuple):
    """From within an epoch; what the whole run replayed, the resumed one ran plainly first, with the same chance."""
    options = (*GPU, *more, "--compile", "graphs")
    train(crosslayer, image_tree, tmp_path / "whole", *options)
    train(crosslayer, image_tree, tmp_path / "parts", *options, "--max-steps", 6)
    code, _, err = crosslayer("train", "--resume", tmp_path / "parts", "--max-steps", 12, "--device", "cuda")
    assert code == 0, err
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
