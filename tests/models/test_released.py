"""Loading authors' checkpoints: every layout that was released, made here from this project's own models."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from crosslayer import create_model, load_released
from crosslayer.models import ResNet

# This project's names in each released layout: block prefix, attention prefix, cell prefix.
LAYOUTS = {
    "none": ("layer{s1}.{t}.", "", ""),
    "se": ("layer{s1}.{t}.", "", ""),
    "eca": ("layer{s1}.{t}.", "", ""),
    "mrla_l": ("layer{s1}.{t}.", "layer{s1}.{t}.mrla", ""),
    "mrla_b": ("stages.{s0}.{t}.", "stages.{s0}.{t}.mrla", ""),
    "dianet": ("layer{s1}.ModuleList.{t}.", "", "layer{s1}.lstm."),
    "kcla": ("stages.{s0}.{t}.", "stages.{s0}.{t}.kcla", ""),
    "dla_b": ("stages.{s0}.layers.{t}.", "stages.{s0}.attention.{t}.layer_attention", "stages.{s0}.lstm."),
    "dla_l": ("stages.{s0}.layers.{t}.", "stages.{s0}.attention.{t}.layer_attention", "stages.{s0}.lstm."),
}

OPTIONS: dict[str, dict[str, Any]] = {"kcla": {"released_parameters": True}}
"""What a mechanism needs in order to have all of the released keys."""


def as_released(model: ResNet, mechanism: str) -> dict[str, Tensor]:
    """The model's state in the authors' names."""
    block, attention, cell = LAYOUTS[mechanism]
    released = {}
    for key, value in model.state_dict().items():
        m = re.fullmatch(r"stages\.(\d+)\.(.+)", key)
        if m is None:
            released[key] = value
            continue
        stage, rest = int(m[1]), m[2]
        rules = [
            (r"blocks\.(\d+)\.shortcut\.(.+)", block + r"downsample.{tail}"),
            (r"blocks\.(\d+)\.(.+)", block + "{tail}"),
            (r"mechanism\.gates\.(\d+)\.([02]\.weight)", block + "se.fc.{tail}"),
            (r"mechanism\.gates\.(\d+)\.(weight)", block + "eca.conv.{tail}"),
            (r"mechanism\.projections\.(\d+)\.query\.(weight)", attention + inner(mechanism) + ".Wq.{tail}"),
            (r"mechanism\.projections\.(\d+)\.key\.(weight)", attention + inner(mechanism) + ".Wk.{tail}"),
            (r"mechanism\.projections\.(\d+)\.value\.(weight)", attention + inner(mechanism) + ".Wv.{tail}"),
            (r"mechanism\.lambdas\.(\d+)()", attention + ".lambda_t"),
            (r"mechanism\.divisors\.(\d+)()", attention + ".norm_d"),
            (r"mechanism\.transitions\.(\d+)\.projection\.(weight)", attention + ".adjust_channel.{tail}"),
            (r"mechanism\.transitions\.(\d+)\.norm\.(.+)", attention + ".u_bn.{tail}"),
            (r"mechanism\.transitions\.(\d+)\.key\.(weight)", attention + ".u_Wk.{tail}"),
            (r"mechanism\.mixers\.(\d+)()", attention + ".head_att.weight"),
            (r"mechanism\.branches\.(\d+)\.0\.(.+)", normalisation(attention)),
            (r"mechanism\.cell\.of_input()\.(.+)", cell + "w_ih.0.seq.{tail}"),
            (r"mechanism\.cell\.of_hidden()\.(.+)", cell + "w_hh.0.seq.{tail}"),
            (r"mechanism\.(stage_kernel)()", "stages.{s0}.excite.weight"),
        ]
        for pattern, target in rules:
            if found := re.fullmatch(pattern, rest):
                name = target.format(s0=stage, s1=stage + 1, t=found[1], tail=found[2])
                released[name] = in_their_shape(name, value)
                break
        else:
            raise AssertionError(key)
    return released


def in_their_shape(name: str, value: Tensor) -> Tensor:
    if name.endswith("norm_d"):
        return value.reshape(1, -1, 1, 1, 1)
    return value[:, None, None] if "lambda_t" in name else value


def inner(mechanism: str) -> str:
    if mechanism == "kcla":
        return ""
    return ".layer_attention" if mechanism.startswith("dla") else ".mrla"


def normalisation(attention: str) -> str:
    prefix, _, name = attention.rpartition(".")
    if name == "kcla":
        return f"{attention}.bn_attention.{{tail}}"
    return f"{prefix}.bn_{name}.{{tail}}"


def made(mechanism: str, backbone: str = "cifar_resnet29", classes: int = 7, **options) -> ResNet:
    torch.manual_seed(0)
    model = create_model(backbone, mechanism, num_classes=classes, **options)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("mechanism", LAYOUTS)
@pytest.mark.parametrize("backbone", ["cifar_resnet29", "cifar_resnet32_basic"])
def test_rebuilt_from_the_checkpoint_alone(mechanism: str, backbone: str):
    model = made(mechanism, backbone, **OPTIONS.get(mechanism, {}))
    again = load_released(as_released(model, mechanism)).eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    ("mechanism", "options"),
    [
        ("se", {"reduction": 8}),
        ("dianet", {"reduction": 2}),
        ("dianet", {"cell": "released"}),
        ("kcla", {"released_parameters": True, "head_channels": 8}),
        ("dla_b", {"reduction": 16}),
        ("dla_l", {"reduction": 2, "stage_convolution": False}),
    ],
)
def test_options_follow_from_shapes(mechanism: str, options: dict):
    model = made(mechanism, **options)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(load_released(as_released(model, mechanism)).eval()(x), model(x))


def test_file_wrapped_and_prefixed(tmp_path):
    model = made("dla_l")
    state = {f"module.{key}": value.double() for key, value in as_released(model, "dla_l").items()}
    torch.save({"state_dict": state, "epoch": 180, "best_acc1": torch.tensor(72.3)}, tmp_path / "released.pth")
    again = load_released(tmp_path / "released.pth").eval()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(again(x), model.double()(x))


def test_leaky_context_is_reached_by_name_only():
    state = as_released(made("dla_l"), "dla_l")
    x = torch.randn(3, 3, 16, 16)
    ours, theirs = load_released(state).eval(), load_released(state, context="first_sample").eval()
    assert not torch.equal(ours(x), theirs(x))
    assert torch.equal(ours(x[:1]), theirs(x[:1]))


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda s: s | {"stages.0.layers.0.surprise.weight": torch.zeros(1)},
            r"unknown keys: stages.0.layers.0.surprise",
        ),
        (lambda s: {k: v for k, v in s.items() if k != "fc.bias"}, r"missing: fc.bias"),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("stages.2")},
            "blocks per stage 3 / 3, widths",
        ),
        (lambda s: s | {"fc.weight": torch.zeros(7, 255)}, "shapes no released model has: fc.weight"),
        (lambda _: {"a": torch.zeros(1)}, "unknown keys: a"),
        (lambda _: {}, "not a released model"),
        (lambda _: {"state_dict": 3}, "not a mapping"),
        (lambda s: s | {"fc.bias": "text"}, "no tensors: fc.bias"),
    ],
)
def test_what_is_not_known_is_refused_by_name(spoil, message: str):
    with pytest.raises(ValueError, match=message):
        load_released(spoil(as_released(made("dla_l"), "dla_l")))


def test_files_that_are_no_weights(tmp_path, capsys):
    with pytest.raises(ValueError, match="there is no checkpoint"):
        load_released(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read as a weights-only checkpoint"):
        load_released(tmp_path / "text.pth")
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot be read as a weights-only checkpoint"):
        load_released(tmp_path / "evil.pth")
    assert "code ran" not in capsys.readouterr().out
    torch.save(made("none").state_dict(), tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cannot be read as a weights-only checkpoint"):
        load_released(tmp_path / "cut.pth")
