"""What a graft promises of any network, wherever it comes from."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from crosslayer import graft, param_groups

Graft = Callable[[nn.Module], nn.Module]
Run = Callable[[nn.Module], Any]
MECHANISMS: dict[str, dict[str, Any]] = {"dla_l": {}, "mrla_b": {}, "se": {"reduction": 2}}
"""One that looks back as a recursion, one as a softmax, and a gate; with options that suit narrow networks."""
EACH = ["dla_l", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("mrla_b", "se"))]


def graft_with(mechanism: str, **options: Any) -> Graft:
    return lambda model: graft(model, mechanism, **options)


def floats(outputs: Any) -> list[Tensor]:
    """Every tensor of real numbers among a network's outputs."""
    leaves = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    assert leaves
    return leaves


def assert_same(ours: Any, theirs: Any) -> None:
    for a, b in zip(floats(ours), floats(theirs), strict=True):
        assert torch.equal(a, b)


def assert_close(ours: Any, theirs: Any) -> None:
    for a, b in zip(floats(ours), floats(theirs), strict=True):
        torch.testing.assert_close(a, b)


def loss_of(outputs: Any) -> Tensor:
    """A number that depends on all outputs."""
    return torch.stack([leaf.square().mean() for leaf in floats(outputs)]).sum()


def new_names(model: nn.Module) -> list[str]:
    """Parameters of mechanisms and scales."""
    return [name for name, _ in model.named_parameters() if ".mechanism." in name or ".scales." in name]


def check_identity(model: nn.Module, grafting: Graft, run: Run) -> None:
    """To the bit, of images that the graft was not tried on, and the original stays what it was."""
    model.eval()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        plain = run(model)
        assert_same(run(grafting(model)), plain)
        assert_same(run(model), plain)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def train(model: nn.Module, run: Run, loss: Callable[[Any], Tensor] = loss_of, steps: int = 3) -> None:
    """Steps of SGD, in the last of which every stage's scales and mechanism have gradients."""
    model.train()
    optimizer = torch.optim.SGD(param_groups(model, 1e-3, graft_lr=1e-2))
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(run(model))
        assert value.isfinite()
        value.backward()
        optimizer.step()
    learning = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    for attachment in vars(model)["attachments"]:
        for part in ("scales", "mechanism"):
            assert any(name.startswith(f"{attachment.path}.{part}.") for name in learning)


def check_saving(model: nn.Module, fresh: nn.Module, run: Run) -> None:
    """A state dict, a deep copy and a pickle give the outputs of the network they are of."""
    model.eval()
    with torch.no_grad():
        outputs = run(model)
        fresh.load_state_dict(model.state_dict())
        assert_same(run(fresh.eval()), outputs)
        assert_same(run(copy.deepcopy(model)), outputs)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        assert_same(run(torch.load(buffer, weights_only=False)), outputs)


def gradients(model: nn.Module, run: Run) -> dict[str, Tensor]:
    """Of every parameter, with the statistics of normalisations held."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.Dropout):
            module.eval()  # statistics would move twice, and masks be drawn twice
    model.zero_grad()
    loss_of(run(model)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_checkpointing(model: nn.Module, run: Run, checkpointed: Run) -> None:
    """Activations that are recomputed give the same gradients."""
    plain = gradients(model, run)
    again = gradients(model, checkpointed)
    assert set(new_names(model)) <= plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient)


def check_all(make: Callable[[], nn.Module], grafting: Graft, run: Run) -> nn.Module:
    """Identity, some steps of training, saving; returns the trained network."""
    torch.manual_seed(0)
    check_identity(make(), grafting, run)
    trained = grafting(make())
    train(trained, run)
    check_saving(trained, grafting(make()), run)
    return trained
