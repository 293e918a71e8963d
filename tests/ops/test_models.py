"""Stages with fused ops forced on equal those in plain PyTorch: outputs, gradients, running statistics."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosslayer.models.block import BasicBlock
from crosslayer.models.factory import mechanism_factory
from crosslayer.models.stage import Stage
from crosslayer.ops import implementation
from tests.ops.maps import noise

NAMES = ["dla_b", "dla_l", "mrla_b", "mrla_l"]


class OneStage(nn.Module):
    """Two blocks that look back."""

    def __init__(self, mechanism: str, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        factory = mechanism_factory(mechanism, options)
        self.stage = Stage(0, BasicBlock, 2, 4, 4, 1, factory, last=True, small_images=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.stage(x, None)[0]


def trained(model: nn.Module, x: Tensor, impl: str) -> dict[str, Tensor]:
    """Everything that one step in training leaves behind, and what evaluation then gives."""
    model, x = copy.deepcopy(model), x.clone().requires_grad_()
    torch.manual_seed(1)
    with implementation(impl):
        out = model.train()(x)
        out.square().sum().backward()
        left = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert x.grad is not None
        left |= {"out": out, "x": x.grad, "evaluated": model.eval()(x)}
    return {name: one.detach() for name, one in (left | dict(model.named_buffers())).items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_training_and_evaluation(device: str, name: str):
    model = OneStage(name, drop_path=0.4).double().to(device)
    x = noise()(3, 4, 3, 3).to(device)
    expected, found = trained(model, x, "reference"), trained(model, x, "fused")
    assert found.keys() == expected.keys()
    assert any("num_batches_tracked" in key for key in found)
    for key, one in found.items():
        torch.testing.assert_close(one, expected[key], rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


def test_autocast_is_as_exact_as_in_plain_pytorch(device: str):
    model, x = OneStage("dla_l").to(device), noise()(2, 4, 3, 3).float().to(device)
    truth = trained(copy.deepcopy(model).double(), x.double(), "reference")
    with torch.autocast(device, torch.bfloat16):
        expected, found = trained(model, x, "reference"), trained(model, x, "fused")
    assert all(one.dtype == expected[key].dtype for key, one in found.items())

    def error(made: dict[str, Tensor]) -> float:
        floating = [key for key, one in truth.items() if one.is_floating_point()]
        return sum(float((made[key] - truth[key]).norm() / (truth[key].norm() + 0.1)) for key in floating)

    assert error(found) <= 1.25 * error(expected)


@pytest.mark.compiled
@pytest.mark.parametrize("name", NAMES[:2])
def test_compiles_as_one_graph_and_exports(device: str, name: str):
    model, x = OneStage(name).to(device), noise()(2, 4, 3, 3).float().to(device)
    with implementation("fused"):
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        other = copy.deepcopy(model)
        out = compiled(x)
        torch.testing.assert_close(out, other(x))
        out.square().sum().backward()
        model.eval()
        exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.testing.assert_close(exported.module()(x[:1]), model(x[:1]))
    assert "crosslayer." in exported.graph_module.code


def test_an_exchanged_normalisation_is_called_as_it_is(device: str):
    model = OneStage("dla_l").double().to(device)
    x = noise()(2, 4, 3, 3).to(device)
    branch = model.stage.mechanism.branches[1]
    branch[0] = nn.GroupNorm(2, 4).double().to(device)
    with implementation("fused"):
        found = model(x)
    with implementation("reference"):
        torch.testing.assert_close(found, model(x), rtol=1e-9, atol=1e-9)
