"""Which files a backbone's weights are taken from, and which are refused."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from crosslayer.errors import UsageError
from crosslayer.training.weights import load_weights


def network(num_classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    body = OrderedDict(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4), flat=nn.Flatten(), head=nn.Linear(4, num_classes))
    return nn.Sequential(body)


def same(a: nn.Module, b: nn.Module, *parts: str) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours if name.startswith(parts))


@pytest.fixture
def theirs() -> nn.Module:
    model = network(seed=1)
    nn.init.uniform_(model.bn.running_mean)
    return model


def load(path: Path, state: object, model: nn.Module) -> nn.Module:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    load_weights(model, str(path), ("head",))
    return model


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors"])
def test_by_name(theirs: nn.Module, tmp_path: Path, name: str):
    assert same(load(tmp_path / name, theirs.state_dict(), network()), theirs, "conv", "bn", "head")


def test_wrapped_and_prefixed(theirs: nn.Module, tmp_path: Path):
    state = {"state_dict": {f"module.{name}": value for name, value in theirs.state_dict().items()}}
    assert same(load(tmp_path / "w.pt", state, network()), theirs, "conv", "bn", "head")


def test_a_classifier_of_other_classes_is_replaced(theirs: nn.Module, tmp_path: Path):
    model = load(tmp_path / "w.pt", theirs.state_dict(), network(num_classes=5))
    assert same(model, theirs, "conv", "bn")
    assert same(model, network(num_classes=5), "head")
    without = {name: value for name, value in theirs.state_dict().items() if not name.startswith("head")}
    model = load(tmp_path / "w.pt", without, network())
    assert same(model, theirs, "conv", "bn")
    assert same(model, network(), "head")


@pytest.mark.parametrize("classes", [3, 5])
def test_in_order_where_names_differ(theirs: nn.Module, tmp_path: Path, classes: int):
    state = {f"_{i}": value for i, (name, value) in enumerate(theirs.state_dict().items()) if "num_batches" not in name}
    model = load(tmp_path / "w.pt", state, network(classes))
    assert same(model, theirs, "conv", "bn.weight", "bn.running")
    assert same(model, theirs if classes == 3 else network(classes), "head")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "bn.weight"}, "it has no 'bn.weight' "),
        (
            lambda s: s | {"conv.weight": torch.zeros(4, 3, 1, 1)},
            r"'conv.weight' is \[4, 3, 1, 1\], not \[4, 3, 3, 3\]",
        ),
        (lambda s: s | {"more.weight": torch.zeros(2)}, "it has 'more.weight', which the network has not"),
        (lambda s: {f"_{k}": v for k, v in list(s.items())[1:]}, "neither names nor shapes in order agree"),
        (lambda _: {}, "neither names nor shapes in order agree"),
        (lambda _: {"state_dict": 3}, "'state_dict' is a int"),
        (lambda _: [1], "holds a list, not a state dict"),
    ],
)
def test_another_networks_weights_are_refused(theirs: nn.Module, tmp_path: Path, change, message: str):
    model = network()
    with pytest.raises(UsageError, match=message) as told:
        load(tmp_path / "w.pt", change(theirs.state_dict()), model)
    assert str(told.value).startswith(f"--weights {tmp_path / 'w.pt'}: ")
    assert "\n" not in str(told.value)
    assert same(model, network(), "")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str):
    with pytest.raises(UsageError, match="there is no such file"):
        load_weights(network(), str(tmp_path / name), ("head",))
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match=f"--weights {tmp_path / name}: "):
        load_weights(network(), str(tmp_path / name), ("head",))


def test_code_in_a_file_is_not_run(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    with pytest.raises(UsageError, match="cannot be read as a weights-only checkpoint"):
        load(tmp_path / "w.pt", Trap(), network())
    assert not (tmp_path / "sprung").exists()
