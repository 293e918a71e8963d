"""Steps of the loop, one by one: none waits for the device, and none minds how its gradients are kept or scaled."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from crosslayer.data import images
from crosslayer.training.launch import Launch
from crosslayer.training.recipe import Recipe
from crosslayer.training.train_state import TrainState, prepare
from crosslayer.training.trainer import training_step

SMALL: dict[str, Any] = {"image_size": 16, "pad": 2, "batch_size": 64, "backbone": "cifar_resnet20", "epochs": 1}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cosine": {"schedule": "cosine", "label_smoothing": 0.1},
    "mixed": {"mixup": 0.2, "cutmix": 1.0},
    "parts": {"accumulate": 2},
    "average": {"ema": 0.9, "optimizer": "adamw"},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "fp16, adamw": {"precision": "fp16", "optimizer": "adamw"},
    "mrla_b": {"mechanism": "mrla_b"},
    "dla_b": {"mechanism": "dla_b"},
    "compiled": {"compile": "on"},
    "graphs": {"compile": "graphs"},
    "graphs, parts": {"compile": "graphs", "accumulate": 2},
}


NUMBERS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select", "aten::_unique2"}
"""Operations whose result has to be known before Python can go on."""


class Asked(TorchDispatchMode):
    """Notes every operation that a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().split(".")[0] in NUMBERS:
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run about to begin, whose images come in groups of three steps."""
    monkeypatch.setattr(images, "TOGETHER_BYTES", 3 * 64 * 3 * 16 * 16)

    number = itertools.count()

    def prepared(way: dict[str, Any], device: str) -> TrainState:
        launch = Launch(output=str(tmp_path / f"run{next(number)}"), device=device, workers=0)
        state = prepare("digits", Recipe(**(SMALL | way)), launch)
        state.learner.start_epoch(keep_statistics=False)
        return state

    return prepared


def steps(state: TrainState, count: int) -> None:
    """Steps of the epoch under way, as the loop takes them between two looks."""
    progress = state.progress
    for parts in itertools.islice(state.stream.epoch(0, progress.step_in_epoch), count):
        training_step(state, parts)
        progress.step += 1
        progress.step_in_epoch += 1


@pytest.mark.parametrize("way", ["plain", "mixed", "parts", "average", "mrla_b", "dla_b"])
def test_no_step_asks_for_a_number(prepared, way: str):
    state = prepared(WAYS[way] | {"batch_size": 8}, "cpu")
    with Asked() as asked:
        steps(state, 2)
        assert not asked.names
        torch.ones(1).item()
    assert asked.names == ["aten::_local_scalar_dense"]


def trained(state: TrainState) -> list[torch.Tensor]:
    steps(state, 3)
    return [parameter.detach().clone() for parameter in state.learner.model.parameters()]


def test_gradients_outside_the_memory_of_graphs_add_up_the_same(prepared):
    way = {"accumulate": 4, "batch_size": 8}
    plain = prepared(way, "cpu")
    kept = prepared(way, "cpu")
    kept = kept._replace(learner=kept.learner._replace(graphs=True))
    assert all(map(torch.equal, trained(plain), trained(kept)))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_scaled_loss_trains_the_same(prepared, optimizer: str):
    """By a power of two: exact."""
    way = {"batch_size": 8, "optimizer": optimizer, "lr": 0.01}
    plain, scaled = prepared(way, "cpu"), prepared(way, "cpu")
    expected = trained(plain)
    scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    try:
        assert all(map(torch.equal, trained(scaled), expected))
    finally:
        scaled.accelerator.scaler = None


def test_an_infinite_gradient_changes_no_weight(prepared):
    state = prepared({"batch_size": 8}, "cpu")
    before = [parameter.detach().clone() for parameter in state.learner.model.parameters()]
    state.learner.model.get_parameter("fc.bias").register_hook(lambda gradient: gradient / 0)
    state.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    try:
        steps(state, 1)
        assert state.accelerator.scaler.get_scale() == 2.0**9
    finally:
        state.accelerator.scaler = None
    assert all(map(torch.equal, state.learner.model.parameters(), before))


@pytest.mark.cuda
@pytest.mark.compiled
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_no_step_waits_for_the_gpu(prepared, way: dict[str, Any]):
    """The first steps may: they compile, record, and send constants; then come several groups of images."""
    state = prepared(way, "cuda")
    steps(state, 5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps(state, 10)
    finally:
        torch.cuda.set_sync_debug_mode("default")
