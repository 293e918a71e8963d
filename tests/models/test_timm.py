"""What timm's tools do with a network, done with ours: the calls of its train, validate, benchmark and inference."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.models import checkpoint_seq, group_parameters, load_checkpoint
from timm.optim import create_optimizer_v2
from timm.utils import freeze, unfreeze
from torch import nn

import crosslayer
from crosslayer.mechanisms import Mechanism
from tests.mechanisms.hosts import RESNET_MECHANISMS

TRAIN = {
    "pretrained": False,
    "in_chans": 3,
    "num_classes": 5,
    "drop_rate": 0.0,
    "drop_path_rate": None,
    "drop_block_rate": None,
    "global_pool": None,
    "bn_momentum": None,
    "bn_eps": None,
    "scriptable": False,
    "checkpoint_path": None,
}
"""What timm's train.py passes to `create_model` where the user gives no options."""


def network(name: str = "resnet18_dla_l", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **options)


@pytest.mark.parametrize("name", ["resnet18_dla_l", "deit_tiny_dla_l", "resnet18_se", "cifar_resnet20_none"])
@pytest.mark.parametrize(
    "words",
    [
        TRAIN,
        {"drop_path_rate": 0.0, "drop_block_rate": 0.0, "output_stride": 0, "img_size": None, "exportable": True},
        {"img_size": 0, "pretrained_cfg_overlay": {"mean": (0.5,) * 3}, "output_stride": 32, "global_pool": "avg"},
    ],
    ids=["train", "zeros", "defaults"],
)
def test_words_that_mean_nothing_change_nothing(name: str, words: dict[str, Any]):
    words = {"num_classes": 5, **words}
    if name.startswith("deit"):
        words.pop("global_pool", None)
    plain, asked = network(name, num_classes=5), network(name, **words)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(plain.eval()(x), asked.eval()(x))  # an exportable network's attention is not fused


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("resnet18_dla_l", {"drop_block_rate": 0.1}, "drop_block_rate is 0.1; crosslayer's networks have nothing"),
        ("resnet18_dla_l", {"output_stride": 4}, "output_stride is 4; it is one of 8, 16, 32"),
        ("deit_tiny_dla_l", {"output_stride": 8}, "a patch of deit_tiny is 16 pixels wide"),
        ("resnet18_dla_l", {"global_pool": "mean"}, "global_pool is 'mean'; it is one of avg, max"),
        ("resnet18_dla_l", {"global_pool": ""}, "without a pooling there is no classifier"),
        ("deit_tiny_dla_l", {"global_pool": "fast"}, "global_pool is 'fast'; it is one of token"),
        ("resnet18_dla_l", {"drop_rate": 1.5}, "drop_rate is 1.5"),
        ("deit_tiny_dla_l", {"drop_rate": -1.0}, "drop_rate is -1.0"),
        ("resnet18_se", {"drop_path_rate": 0.1}, "mechanism 'se' has no drop path"),
        ("resnet18_dla_l", {"drop_path_rate": 0.1, "drop_path": 0.2}, "say it once"),
        ("resnet18_dla_l", {"scriptable": True}, "cannot be scripted"),
        ("resnet18_dla_l", {"img_size": (1, 2, 3)}, "img_size"),
        ("resnet18_dla_l", {"in_chans": 0}, "in_chans is 0; it must be at least 1"),
        ("resnet18_dla_l", {"num_classes": -1}, "num_classes is -1; it must be at least 0"),
        ("resnet18_dla_l", {"fancy": 1}, "mechanism 'dla_l' has no option 'fancy'"),
    ],
)
def test_what_is_meant_and_cannot_be_had_is_refused(name: str, words: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        timm.create_model(name, **words)


def test_weights_that_are_asked_for_are_loaded(tmp_path: Path):
    given = network(num_classes=3)
    torch.save(given.state_dict(), tmp_path / "weights.pth")
    x = torch.randn(1, 3, 64, 64)
    by_path = timm.create_model("resnet18_dla_l", num_classes=3, checkpoint_path=tmp_path / "weights.pth")
    known = {"file": str(tmp_path / "weights.pth"), "num_classes": 3}
    by_config = timm.create_model("resnet18_dla_l", pretrained=True, pretrained_cfg_overlay=known)
    grey = timm.create_model("resnet18_dla_l", pretrained=True, pretrained_cfg_overlay=known, in_chans=1)
    for model in (by_path, by_config):
        assert torch.equal(model.eval()(x), given.eval()(x))
    torch.testing.assert_close(grey.conv1.weight, given.conv1.weight.sum(1, keepdim=True))
    with pytest.raises(RuntimeError, match="No pretrained weights exist for resnet18_dla_l"):
        timm.create_model("resnet18_dynamic_layer_attention_l", pretrained=True)


def test_position_embeddings_are_made_for_the_size_asked_for(tmp_path: Path):
    given = network("deit_tiny_dla_l", num_classes=3)
    torch.save(given.state_dict(), tmp_path / "weights.pth")
    known = {"file": str(tmp_path / "weights.pth"), "num_classes": 3}
    small = timm.create_model("deit_tiny_dla_l", pretrained=True, img_size=64, pretrained_cfg_overlay=known)
    assert small.pos_embed.shape == (1, 17, 192)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(small.eval()(x), given.eval()(x), atol=1e-5, rtol=1e-4)


def test_drop_rate_drops_features_in_training():
    model, plain = network(drop_rate=0.5), network()
    x = torch.randn(2, 512, 2, 2)
    assert torch.equal(model.eval().forward_head(x), plain.eval().forward_head(x))
    pooled = model.train().forward_head(torch.ones(8, 512, 2, 2), pre_logits=True)
    assert set(pooled.unique().tolist()) == {0.0, 2.0}
    assert network("deit_tiny_dla_l", drop_rate=0.5).head_drop.p == 0.5


def test_pooling_is_the_one_asked_for():
    x = torch.randn(1, 512, 3, 3)
    assert torch.equal(network(global_pool="max").forward_head(x, pre_logits=True), x.amax((2, 3)))
    both = network(global_pool="catavgmax", num_classes=4)
    torch.testing.assert_close(
        both.forward_head(x, pre_logits=True), torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
    )
    assert both.fc.in_features == 1024
    assert torch.equal(network(global_pool="", num_classes=0).forward_head(x), x)
    both.reset_classifier(7, "avg")
    assert (both.fc.in_features, both.fc.out_features, both.num_classes) == (512, 7, 7)


@pytest.mark.parametrize(("name", "theirs"), [("resnet18_none", "resnet18"), ("resnet50_none", "resnet50")])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_output_stride_dilates_as_timms_networks_do(name: str, theirs: str, stride: int):
    plain = timm.create_model(theirs, num_classes=3, output_stride=stride).eval()
    ours = timm.create_model(name, num_classes=3, output_stride=stride).eval()
    state = plain.state_dict()
    assert [v.shape for v in state.values()] == [v.shape for v in ours.state_dict().values()]
    ours.load_state_dict(dict(zip(ours.state_dict(), state.values(), strict=True)))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = plain.forward_features(x)
        torch.testing.assert_close(ours.forward_features(x), expected)
    assert expected.shape[-1] == 64 // stride
    assert [info["reduction"] for info in ours.feature_info][-1] == stride


@pytest.mark.parametrize("mechanism", RESNET_MECHANISMS)
@pytest.mark.sampled(4)
def test_every_mechanism_runs_dilated(mechanism: str):
    features = crosslayer.create_model("resnet18", mechanism, features_only=True, output_stride=8)
    with torch.no_grad():
        assert features.eval()(torch.randn(1, 3, 64, 64))[-1].shape[-2:] == (8, 8)


def test_names_without_dla():
    names = timm.list_models("*dynamic_layer_attention*")
    assert {"resnet50_dynamic_layer_attention_l", "deit_tiny_dynamic_layer_attention_b"} <= set(names)
    assert not any("dla" in name for name in names)
    model = network("resnet18_dynamic_layer_attention_l", num_classes=2)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model.eval()(x), network(num_classes=2).eval()(x))
    assert model.pretrained_cfg["architecture"] == "resnet18_dla_l"


@pytest.mark.parametrize("name", ["resnet18_dla_l", "resnet18_dianet", "deit_tiny_mrla_l"])
def test_learning_rates_fall_from_layer_to_layer(name: str):
    model = network(name, num_classes=3)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(layers) == {key for key, _ in model.named_parameters()}
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, weight_decay=0.1, layer_decay=0.5)
    rates = {
        id(parameter): group["lr"] * group["lr_scale"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    head = model.get_classifier().weight
    assert rates[id(head)] == 0.1
    assert min(rates.values()) == rates[id(next(model.parameters()))] < rates[id(head)]
    if name == "resnet18_dla_l":
        assert (
            rates[id(model.stages[0].blocks[1].conv1.weight)] == 2 * rates[id(model.stages[0].blocks[0].conv1.weight)]
        )
        own = {rates[id(p)] for p in model.stages[0].mechanism.parameters()}
        assert own == {rates[id(model.stages[0].blocks[1].conv1.weight)]}
        coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
        assert {coarse[key] for key in coarse if key.startswith("stages.2.")} == {3}


def test_no_decay_for_numbers_per_channel():
    model = network("resnet18_mrla_l")
    spared = model.no_weight_decay()
    named = dict(model.named_parameters())
    assert all(named[key].ndim > 1 for key in spared)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=0.1, weight_decay=0.1)
    kept = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    assert {id(named[key]) for key in spared} <= kept
    assert id(model.conv1.weight) not in kept


def test_a_step_of_training_and_a_look_at_an_image():
    model = network(**TRAIN)
    model.set_grad_checkpointing(True)
    config = resolve_data_config({}, model=model)
    assert (config["input_size"], config["crop_pct"], config["interpolation"]) == ((3, 224, 224), 0.875, "bicubic")
    create_transform(**config)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1)
    x, y = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    before = copy.deepcopy(model.state_dict())
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    assert not torch.equal(model.fc.weight, before["fc.weight"])
    out, maps = model.eval().forward_intermediates(x, indices=2)
    assert out.shape == (4, 512, 2, 2)
    assert [m.shape[1] for m in maps] == [256, 512]
    torch.testing.assert_close(model.forward_head(model.forward_features(x)), model(x))


def test_frozen_networks_stay_and_thaw():
    model, x = network(num_classes=3), torch.randn(4, 3, 64, 64)
    expected = model.eval()(x)
    freeze(model, ["conv1", "bn1", "stages.0"])
    assert not any(p.requires_grad for p in model.stages[0].parameters())
    assert all(p.requires_grad for p in model.stages[1].parameters())
    mean = model.bn1.running_mean.clone()
    model.train()(x).sum().backward()
    assert torch.equal(model.bn1.running_mean, mean)
    unfreeze(model)
    assert all(p.requires_grad for p in model.parameters())
    assert isinstance(model.bn1, nn.BatchNorm2d)
    load_state = network(num_classes=3).state_dict()
    model.load_state_dict(load_state)
    torch.testing.assert_close(model.eval()(x), expected)


def test_checkpoints_of_timms_training_load(tmp_path: Path):
    given = network(num_classes=3)
    torch.save({"state_dict": {f"module.{k}": v for k, v in given.state_dict().items()}}, tmp_path / "last.pth.tar")
    other = timm.create_model("resnet18_dla_l", num_classes=3)
    load_checkpoint(other, str(tmp_path / "last.pth.tar"))
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(other.eval()(x), given.eval()(x))


def test_stages_run_in_sequence_are_recomputed():
    model, x = network(), torch.randn(2, 64, 16, 16, requires_grad=True)
    torch.testing.assert_close(checkpoint_seq(model.stages, x), nn.Sequential(*model.stages)(x))


def test_create_model_has_timms_defaults():
    model = crosslayer.create_model("resnet18", "dla_l", pretrained=False)
    assert (model.num_classes, model.fc.out_features) == (1000, 1000)
    assert any(isinstance(module, Mechanism) for module in model.modules())
    features = crosslayer.create_model("cifar_resnet20", "mrla_l", features_only=True, out_indices=(2, 3))
    assert [m.shape[1:] for m in features(torch.randn(1, 3, 32, 32))] == [(128, 16, 16), (256, 8, 8)]
    assert crosslayer.create_model("resnet18", num_classes=0).get_classifier().__class__ is nn.Identity
    with pytest.raises(ValueError, match="needs features_only=True"):
        crosslayer.create_model("resnet18", "dla_l", out_indices=(1,))
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        crosslayer.create_model("resnet18", "dla_l", pretrained=True)


@pytest.mark.exhaustive
def test_timms_scripts_learn_the_names_by_an_import():
    script = "import timm, importlib; importlib.import_module('crosslayer'); print(timm.is_model('resnet18_dla_l'))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "True\n"
