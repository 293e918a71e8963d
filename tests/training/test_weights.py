"""Which files a backbone's weights are taken from, and which are refused."""

import argparse
import json
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
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


PREFIXES = [
    "module.",
    "model.",
    "_orig_mod.",
    "timm_model.",
    "backbone.",
    "encoder.",
    "module._orig_mod.",
    "net.model.",
]


@pytest.mark.parametrize("file", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_common_prefix_is_taken_off(theirs: nn.Module, tmp_path: Path, prefix: str, file: str):
    state = {prefix + name: value for name, value in theirs.state_dict().items()}
    assert same(load(tmp_path / file, state, network()), theirs, "conv", "bn", "head")


def test_a_network_whose_own_names_begin_like_a_wrapper(theirs: nn.Module, tmp_path: Path):
    ours = nn.ModuleDict({"model": network()})
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    load_weights(ours, str(tmp_path / "w.pt"), ("model.head",))
    assert same(ours["model"], theirs, "conv", "bn", "head")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["state_dict", "model", "model_state_dict", "model_ema", "state_dict_ema", "net"])
def test_what_trainings_write_is_read_around(theirs: nn.Module, tmp_path: Path, name: str, zipped: bool):
    content = {
        "epoch": 3,
        "arch": "resnet18",
        "args": argparse.Namespace(lr=0.1, out=Path("out"), size=torch.Size([3, 4])),
        "metric": np.float64(0.5),
        "history": defaultdict(list, loss=[np.float32(1.0)], table=np.zeros(3)),
        "callbacks": {"pytorch.callbacks.Checkpoint": OrderedDict(best=None)},
        name: defaultdict(list, theirs.state_dict()),
    }
    torch.save(content, tmp_path / "w.pth.tar", _use_new_zipfile_serialization=zipped)
    assert same(load_file_into(network(), tmp_path / "w.pth.tar"), theirs, "conv", "bn", "head")


def load_file_into(model: nn.Module, path: Path) -> nn.Module:
    load_weights(model, str(path), ("head",))
    return model


def test_of_several_the_average_is_taken_and_a_line_says_so(theirs: nn.Module, tmp_path: Path, capsys):
    other = network(seed=2)
    average = {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in theirs.state_dict().items()}
    load(tmp_path / "w.pt", {"model": other.state_dict(), "model_ema": average}, model := network())
    assert same(model, theirs, "conv", "bn", "head")
    assert "weights are taken from 'model_ema', not from model" in capsys.readouterr().err
    load(tmp_path / "w.pt", {"model": other.state_dict(), "model_ema": None}, model := network())
    assert same(model, other, "conv", "bn", "head")
    assert not capsys.readouterr().err


def test_a_fresh_classifier_is_said(theirs: nn.Module, tmp_path: Path, capsys):
    load(tmp_path / "w.pt", theirs.state_dict(), network(num_classes=5))
    assert "the classifier begins anew" in capsys.readouterr().err.replace("\n", " ")


def test_weights_in_several_files(theirs: nn.Module, tmp_path: Path):
    state = theirs.state_dict()
    where = {name: f"model-0000{1 + name.startswith('bn')}-of-00002.safetensors" for name in state}
    for file in set(where.values()):
        save_file({name: value for name, value in state.items() if where[name] == file}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert same(load_file_into(network(), index), theirs, "conv", "bn", "head")
    index.write_text(json.dumps({"weight_map": where | {"more": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(UsageError, match=r"'model-00001-of-00002\.safetensors' lacks more"):
        load_file_into(network(), index)
    for wrong, message in (
        ({"weight_map": {"a": "../a.safetensors"}}, "no file beside it"),
        ({"weight_map": 3}, "no index"),
    ):
        index.write_text(json.dumps(wrong))
        with pytest.raises(UsageError, match=message):
            load_file_into(network(), index)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(theirs: nn.Module, tmp_path: Path, dtype: torch.dtype):
    state = theirs.to(dtype).state_dict()
    assert same(load(tmp_path / "w.safetensors", state, network()), theirs.float(), "conv", "bn", "head")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((4,), torch.nan), "its 'bn.bias' holds NaN or infinity"),
        (torch.zeros(4, dtype=torch.int8), "its 'bn.bias' holds int8, not float32"),
        (torch.zeros(4, dtype=torch.complex64), "its 'bn.bias' holds complex64, not float32"),
        (torch.zeros(4).to_sparse(), "entries that are no tensors: bn.bias"),
    ],
)
def test_numbers_that_are_no_weights(theirs: nn.Module, tmp_path: Path, value: torch.Tensor, message: str):
    with pytest.raises(UsageError, match=message):
        load(tmp_path / "w.pt", theirs.state_dict() | {"bn.bias": value}, network())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"\x89HDF\r\n\x1a\n", "neither PyTorch's nor safetensors' format"),
        (b"\x80\x02cposix\nsystem\n", "truncated or damaged"),
        (b"PK\3\4 and no more", "it is truncated or damaged"),
    ],
)
def test_foreign_files(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UsageError, match=message) as told:
        load_weights(network(), str(tmp_path / "w.pth"), ("head",))
    assert "\n" not in str(told.value)


def test_a_directory_and_whole_objects(theirs: nn.Module, tmp_path: Path):
    with pytest.raises(UsageError, match="it is a directory"):
        load_weights(network(), str(tmp_path), ("head",))
    for content in (theirs, {"model": theirs}):
        with pytest.raises(
            UsageError, match=r"an object of torch.nn.modules.container.Sequential; keep its state_dict"
        ):
            load(tmp_path / "w.pt", content, network())
    with zipfile.ZipFile(tmp_path / "s.pt", "w") as archive:  # as torch.jit.save lays it out
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"s/{name}", b"")
    with pytest.raises(UsageError, match="it is a TorchScript program"):
        load_weights(network(), str(tmp_path / "s.pt"), ("head",))
    np.savez(tmp_path / "a.npz", a=np.zeros(2))
    with pytest.raises(UsageError, match=r"an archive, but not of PyTorch's"):
        load_weights(network(), str(tmp_path / "a.npz"), ("head",))


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_no_damage_ends_in_a_traceback(theirs: nn.Module, tmp_path: Path, kind: str):
    file = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(theirs.state_dict(), file)
    else:
        torch.save(theirs.state_dict(), file, _use_new_zipfile_serialization=kind == "zip")
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 60):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(rng.integers(8))
        for content, must_fail in ((whole[:at], True), (bytes(flipped), False)):
            file.write_bytes(content)
            model, said = network(), ""
            try:
                load_weights(model, str(file), ("head",))
            except UsageError as error:
                said = str(error)
            assert said or not must_fail
            assert "\n" not in said
            assert "\x1b" not in said
            assert said or kind != "zip" or same(model, theirs, "conv", "bn", "head")


def test_a_checksum_that_does_not_agree(theirs: nn.Module, tmp_path: Path):
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        assert archive.testzip() is None
    at = content.index(theirs.conv.weight.detach().numpy().tobytes())
    content[at] ^= 1
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(UsageError, match="it is damaged: a checksum does not agree"):
        load_weights(network(), str(tmp_path / "w.pt"), ("head",))
