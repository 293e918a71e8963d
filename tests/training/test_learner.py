"""Rates per group, a frozen backbone, the moving average against one computed by hand."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from crosslayer.errors import UsageError
from crosslayer.training import classification
from crosslayer.training import learner as learner_module
from crosslayer.training.checkpoint import load_checkpoint, path_of
from crosslayer.training.learner import BACKBONE, GRAFT, Learner, build_learner
from crosslayer.training.recipe import Recipe
from crosslayer.training.trained import load_trained
from tests.conftest import QUICK


@pytest.fixture
def learner() -> Learner:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    graft = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model = nn.Sequential(OrderedDict(body=body, graft=graft))
    groups = [
        {"params": list(body.parameters()), "lr": 0.1, "weight_decay": 0.1, "name": BACKBONE},
        {"params": list(graft.parameters()), "lr": 0.1, "weight_decay": 0.1, "name": GRAFT},
    ]
    return Learner(model, torch.optim.SGD(groups, momentum=0.9), None)


def step(learner: Learner, *, frozen: bool, keep_statistics: bool | None = None) -> None:
    learner.start_epoch(keep_statistics=frozen if keep_statistics is None else keep_statistics)
    learner.model(torch.randn(6, 3, 8, 8)).square().sum().backward()
    if frozen:
        learner.drop_backbone_gradients()
    learner.optimizer.step()
    learner.optimizer.zero_grad()


def changed(learner: Learner, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in learner.model.state_dict().items() if not torch.equal(value, before[name])}


def test_a_frozen_backbone_keeps_weights_and_statistics(learner: Learner):
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    for _ in range(3):
        step(learner, frozen=True)
    assert changed(learner, before) == {name for name in before if name.startswith("graft")}
    step(learner, frozen=False)
    assert changed(learner, before) == set(before)


def test_statistics_alone_may_be_kept(learner: Learner):
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    step(learner, frozen=False, keep_statistics=True)
    assert set(before) - changed(learner, before) == {
        f"body.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_rates_follow_the_schedule_in_every_group(learner: Learner):
    recipe = Recipe(graft=True, lr=0.2, graft_lr=0.6)
    learner.set_rates(recipe, 0.5)
    assert {group["name"]: group["lr"] for group in learner.optimizer.param_groups} == {BACKBONE: 0.1, GRAFT: 0.3}
    learner.set_rates(Recipe(graft=True, lr=0.2), 0.5)
    assert [group["lr"] for group in learner.optimizer.param_groups] == [0.1, 0.1]


def test_adamw(tmp_path: Path):
    learner = build_learner(Recipe(optimizer="adamw", weight_decay=0.05), 2, Accelerator(cpu=True), tmp_path, None)
    (group,) = learner.optimizer.param_groups
    assert isinstance(learner.optimizer, torch.optim.AdamW)
    assert (group["weight_decay"], group["name"]) == (0.05, BACKBONE)
    assert learner.ema is None


def test_the_average_is_what_is_measured_and_kept(crosslayer, image_tree: Path, tmp_path: Path, monkeypatch):
    """By hand: after step t, e ← w for t = 1, then e ← d e + (1 - d) w with d = min(0.6, 1 - t^(-2/3))."""
    seen, measured = [], []
    update, evaluate = ModelEmaV3.update, classification.evaluate

    def noted_update(self, model, step):
        update(self, model, step)
        seen.append((step, {name: value.detach().clone() for name, value in model.state_dict().items()}))

    def noted_evaluate(model, *rest):
        measured.append({name: value.clone() for name, value in model.state_dict().items()})
        return evaluate(model, *rest)

    monkeypatch.setattr(ModelEmaV3, "update", noted_update)
    monkeypatch.setattr(classification, "evaluate", noted_evaluate)
    run = tmp_path / "run"
    words = ("--data", image_tree, "--output", run, *QUICK, "--ema", 0.6, "--mechanism", "se", "--epochs", 3)
    assert crosslayer("train", *words)[0] == 0
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6]
    average = seen[0][1]
    for step, weights in seen[1:]:
        decay = min(0.6, 1 - step ** (-2 / 3))
        average = {
            name: decay * average[name] + (1 - decay) * value if value.is_floating_point() else value
            for name, value in weights.items()
        }
    kept = load_checkpoint(path_of(run / "checkpoints", 6))
    for name, value in average.items():
        torch.testing.assert_close(kept["model"][name], value)
        assert torch.equal(measured[-1][name], kept["model"][name])
        assert torch.equal(kept["raw"][name], seen[-1][1][name])
    assert not torch.equal(kept["raw"]["fc.weight"], kept["model"]["fc.weight"])
    monkeypatch.undo()
    assert torch.equal(load_trained(run, device="cpu").model.state_dict()["fc.weight"], kept["model"]["fc.weight"])


def test_vectors_may_be_left_without_decay():
    recipe = Recipe(mechanism="dla_l", backbone="cifar_resnet20", nesterov=True, weight_decay=0.5, decay_vectors=False)
    model = learner_module.build_model(recipe, 10)
    optimizer = learner_module.build_optimizer(model, recipe)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {group["name"] for group in optimizer.param_groups} == {BACKBONE}
    assert all(group["nesterov"] for group in optimizer.param_groups)
    assert len(decay) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.5 if parameter.ndim > 1 else 0), name


def test_nesterov_is_a_form_of_momentum():
    with pytest.raises(UsageError, match="--momentum above 0"):
        Recipe(nesterov=True, momentum=0.0)
    with pytest.raises(UsageError, match="--optimizer sgd"):
        Recipe(nesterov=True, optimizer="adamw")
