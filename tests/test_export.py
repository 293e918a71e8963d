"""Exported programs: as the network to rounding, in every format, written whole or not at all."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from crosslayer import create_model, graft
from crosslayer.cli import main
from crosslayer.export.lean import LeanLightPass, lean_copy, lean_program
from tests.conftest import QUICK

pytestmark = pytest.mark.compiled
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2", "torchscript": ".pt"}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}


def stirred(model: nn.Module) -> nn.Module:
    """In float64, with statistics and scales that leave nothing at 0 or 1."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.ParameterDict):
            for scale in module.values():
                nn.init.normal_(scale, std=0.3)
    return model.eval().double()


LIGHT = {
    "mrla_l": {},
    "dla_l": {},
    "dla_l paper": {"stage_convolution": False},
    "dla_l rnn": {"cell": "rnn"},
    "dla_l odd heads": {"head_channels": 8},
}


@pytest.mark.parametrize("case", LIGHT)
def test_the_lean_formula_is_the_mechanism_to_rounding(case: str):
    model = stirred(create_model("cifar_resnet20_basic", case.split()[0], num_classes=4, **LIGHT[case]))
    lean = lean_copy(model)
    assert all(stage.pass_type is LeanLightPass for stage in lean.get_submodule("stages"))  # type: ignore[attr-defined]
    images = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(lean(images), model(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "mechanism", ["dla_l", *(pytest.param(m, marks=pytest.mark.exhaustive) for m in ("none", "mrla_b", "se", "rla_g"))]
)
def test_a_program_is_the_network_without_normalisations(mechanism: str):
    model = stirred(create_model("cifar_resnet20_basic", mechanism, num_classes=4))
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    program = lean_program(model, images, dynamic=True)
    again = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(again), model(again), rtol=1e-11, atol=1e-11)
    norms = sum("batch_norm" in str(node.target) for node in program.graph.nodes)
    left = {"none": 0, "dla_l": 0, "se": 0}
    assert norms == left.get(mechanism, norms)


def test_what_a_block_of_dla_l_still_computes():
    model = create_model("cifar_resnet20", "dla_l", num_classes=4).eval()
    nodes = [str(node.target) for node in lean_program(model, torch.zeros(1, 3, 32, 32)).graph.nodes]
    blocks = 6
    assert sum("avg_pool" in name for name in nodes) == 2 * blocks + 1
    assert not any("batch_norm" in name or "repeat" in name for name in nodes)


def test_a_graft_keeps_its_scales_within_the_normalisation():
    model = stirred(graft(timm.create_model("resnet18", num_classes=4), "dla_l"))
    lean = lean_copy(model)
    assert not any("scales" in name for name, _ in lean.named_parameters())
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(lean(images), model(images), rtol=1e-11, atol=1e-11)


def test_a_transformer_exports():
    torch.manual_seed(0)
    model = create_model("deit_tiny", "dla_l", num_classes=4).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(lean_program(model, images).module()(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, image_tree: Path) -> Path:
    path = tmp_path_factory.mktemp("run") / "dla_l"
    words = ["train", "--data", image_tree, "--output", path, "--mechanism", "dla_l", *QUICK, "--epochs", 1]
    assert main([str(word) for word in words]) == 0
    return path


@pytest.mark.filterwarnings("ignore")  # of exporters
@pytest.mark.parametrize("name", SUFFIXES)
@pytest.mark.parametrize("dynamic", [pytest.param(False, marks=pytest.mark.exhaustive), True])
def test_every_format(crosslayer, trained: Path, tmp_path: Path, name: str, dynamic: bool):
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    path = tmp_path / f"program{SUFFIXES[name]}"
    words = ["--format", name, "--output", path, *(["--dynamic"] if dynamic else [])]
    code, out, err = crosslayer("export", trained, *words)
    assert code == 0, err
    assert "compared on 4 validation images of" in out
    metadata = read_metadata(name, path)
    assert json.loads(metadata["classes"]) == ["bright", "dark"]
    assert len(json.loads(metadata["mean"])) == 3
    assert {one.suffix for one in tmp_path.iterdir()} == {SUFFIXES[name]} | ({".bin"} if name == "openvino" else set())


def read_metadata(name: str, path: Path) -> dict[str, str]:
    """As a user of the runtime reads it."""
    if name == "onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    if name == "openvino":
        import openvino

        info = openvino.Core().read_model(path).get_rt_info()["crosslayer"]
        return {key: info[key].astype(str) for key in ("classes", "mean")}
    extra = {"metadata.json": ""}
    if name == "pt2":
        torch.export.load(path, extra_files=extra)
    else:
        torch.jit.load(str(path), _extra_files=extra)
    return json.loads(extra["metadata.json"])


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")
def test_int8(crosslayer, trained: Path, tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "small.onnx"
    code, out, err = crosslayer("export", trained, "--int8", "--output", path)
    assert code == 0, err
    assert "(tolerance 0.25)" in out
    assert [one.name for one in tmp_path.iterdir()] == ["small.onnx"]
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(path).graph.node}


def test_a_difference_above_the_tolerance_leaves_nothing(crosslayer, trained: Path, tmp_path: Path):
    path = tmp_path / "program.pt2"
    path.write_text("as before")
    words = ("--format", "pt2", "--output", path, "--tolerance", "0")
    code, _, err = crosslayer("export", trained, *words)
    assert code == 1
    assert "more than --tolerance 0; nothing was written" in err
    assert path.read_text() == "as before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output", "a.txt"), "ends with .onnx"),
        (("--output", "a.pt2", "--format", "pt2", "--int8"), "--int8 is for --format onnx"),
        (("--output", "a.onnx", "--tolerance", "-1"), "--tolerance is -1"),
        (("--output", "a.onnx", "--num-classes", "0"), "--num-classes is 0"),
    ],
)
def test_refusals(crosslayer, words: tuple[str, ...], message: str):
    pytest.importorskip("onnxruntime")
    code, _, err = crosslayer("export", "cifar_resnet20", *words)
    assert code == 2
    assert message in err


def test_a_missing_package_is_named(crosslayer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("crosslayer.export.formats.find_spec", lambda _: None)
    code, _, err = crosslayer("export", "cifar_resnet20", "--format", "openvino", "--output", "a.xml")
    assert code == 2
    assert "--format openvino needs openvino: pip install 'crosslayer[export]'" in err


@pytest.mark.filterwarnings("ignore")
def test_models_are_traced_by_jit():
    model = create_model("cifar_resnet20", "dla_l", num_classes=4).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        traced = torch.jit.trace(model, images[:1])
        torch.testing.assert_close(traced(images), model(images))
