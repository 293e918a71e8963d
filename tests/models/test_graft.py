"""Grafting onto networks of timm: what is found, what is kept, what is refused."""

import logging

import pytest
import timm
import torch
from torch import nn

import crosslayer
from crosslayer import graft, param_groups


def small_resnet(**arguments) -> nn.Module:
    """A ResNet-18 told of small images, so that looking for its stages is quick."""
    torch.manual_seed(0)
    return timm.create_model("resnet18", pretrained_cfg_overlay={"input_size": (3, 64, 64)}, **arguments)


def small_vit(**arguments) -> nn.Module:
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", **(options | arguments))


STAGES = {
    "resnet50": ["layer1 3 256", "layer2 4 512", "layer3 6 1024", "layer4 3 2048"],
    "resnext50_32x4d": ["layer1 3 256", "layer2 4 512", "layer3 6 1024", "layer4 3 2048"],
    "convnext_atto": ["stages.0.blocks 2 40", "stages.1.blocks 2 80", "stages.2.blocks 6 160", "stages.3.blocks 2 320"],
    "tf_efficientnet_lite0": ["blocks.1 2 24", "blocks.2 2 40", "blocks.3 3 80", "blocks.4 3 112", "blocks.5 4 192"],
    "regnetx_002": ["s3 4 152", "s4 7 368"],
    "mobilenetv3_small_050": ["blocks.1 2 16", "blocks.2 3 24", "blocks.3 2 24", "blocks.4 3 48"],
    "vit_tiny_patch16_224": ["blocks 12 192"],
    "deit_tiny_distilled_patch16_224": ["blocks 12 192"],
    "swin_tiny_patch4_window7_224": [
        "layers.0.blocks 2 96",
        "layers.1.blocks 2 192",
        "layers.2.blocks 6 384",
        "layers.3.blocks 2 768",
    ],
}


@pytest.mark.parametrize(("name", "stages"), STAGES.items())
def test_stages_are_found(name: str, stages: list[str], caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="crosslayer"):
        grafted = graft(timm.create_model(name), "eca")
    assert [f"{a.path} {a.blocks} {a.channels}" for a in grafted.attachments] == stages
    said = [record.getMessage() for record in caplog.records if record.name.startswith("crosslayer.models")]
    assert said == [str(a) for a in grafted.attachments]
    assert "eca on" in said[0]


@pytest.mark.parametrize(
    ("name", "mechanism", "options", "message"),
    [
        ("vgg11", "dla_l", {}, "nothing repeats in VGG"),
        ("densenet121", "dla_l", {}, "nothing repeats in DenseNet"),
        ("pvt_v2_b0", "dla_l", {}, "which are no maps"),
        ("resnet18", "rla_g", {}, "reaches into a network's blocks"),
        ("resnet18", "ba", {}, "reaches into a network's blocks"),
        ("resnet18", "dla_x", {}, "unknown mechanism 'dla_x'"),
        ("resnet18", "dla_l", {"depth": 3}, "has no option 'depth'"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(name: str, mechanism: str, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        graft(timm.create_model(name), mechanism, **options)


@pytest.mark.mistyped
def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="start is 'zero'"):
        graft(small_resnet(), "dla_l", start="zero")  # type: ignore[arg-type]


def test_a_network_is_grafted_onto_once():
    with pytest.raises(ValueError, match="has a mechanism already"):
        graft(graft(small_resnet(), "se"), "dla_l")


def test_blocks_called_one_by_one_are_noticed():
    class Indexed(nn.Module):
        """Reaches past its list: a stage put in its place would never be asked."""

        def __init__(self) -> None:
            super().__init__()
            pair = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)) for _ in range(2)]
            self.blocks = nn.ModuleList(pair)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for i in range(2):
                x = self.blocks[i](x)
            return x.mean((2, 3))

    with pytest.raises(ValueError, match="reaches into blocks past its stage"):
        graft(Indexed(), "se")


def test_original_and_its_mode_stay():
    model = small_resnet().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    grafted = graft(model, "dla_l")
    assert model.training
    assert grafted.training
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert set(before) < set(grafted.state_dict())
    new = {key.split(".")[1] for key in grafted.state_dict() if key not in before}
    assert new == {"mechanism", "scales"}


def test_weights_of_the_plain_network_fit():
    grafted = graft(small_resnet(), "dla_l")
    missing, unexpected = grafted.load_state_dict(small_resnet().state_dict(), strict=False)
    assert not unexpected
    assert all(".mechanism." in key or ".scales." in key for key in missing)


def test_published_start_acts_from_the_first_step():
    model, x = small_resnet().eval(), torch.randn(2, 3, 64, 64)
    grafted = graft(model, "mrla_l", start="published")
    assert not torch.equal(grafted(x), model(x))
    assert not any(".scales." in key for key in grafted.state_dict())


def test_timm_methods_stay():
    grafted = graft(small_resnet(), "dla_l").eval()
    x = torch.randn(2, 3, 64, 64)
    assert grafted.forward_features(x).shape == (2, 512, 2, 2)
    assert grafted.get_classifier().out_features == 1000
    grafted.reset_classifier(4)
    assert grafted(x).shape == (2, 4)
    last, maps = grafted.forward_intermediates(x)
    assert torch.equal(last, maps[-1])
    assert [m.shape[1] for m in maps] == [64, 64, 128, 256, 512]


@pytest.mark.parametrize("mechanism", ["dla_l", "dla_b", "se"])
def test_features_only(mechanism: str):
    plain = small_resnet(features_only=True).eval()
    grafted = graft(plain, mechanism)
    x = torch.randn(1, 3, 64, 64)
    for theirs, ours in zip(plain(x), grafted(x), strict=True):
        assert torch.equal(theirs, ours)


@pytest.mark.parametrize("mechanism", ["dla_l", "mrla_b", "se"])
def test_transformer_walked_block_by_block_is_the_same(mechanism: str):
    grafted = graft(small_vit(dynamic_img_size=True), mechanism, start="published").eval()
    x = torch.randn(2, 3, 32, 48)
    tokens, maps = grafted.forward_intermediates(x)
    torch.testing.assert_close(tokens, grafted.forward_features(x))
    assert [tuple(m.shape) for m in maps] == [(2, 32, 4, 6)] * 4


def test_transformer_of_one_size_says_so():
    grafted = graft(small_vit(), "dla_l")
    with pytest.raises(AssertionError, match="doesn't match model"):  # timm's own words
        grafted(torch.randn(1, 3, 40, 32))


def test_prefix_tokens_of_any_number():
    x = torch.randn(2, 3, 32, 32)
    for registers in (0, 3):
        model = small_vit(reg_tokens=registers).eval()
        assert torch.equal(graft(model, "dla_l")(x), model(x))


def test_parameter_groups():
    grafted = graft(small_resnet(num_classes=3), "dla_l")
    backbone, new = param_groups(grafted, 0.01, graft_lr=0.1, weight_decay=0.5)
    assert (backbone["name"], backbone["lr"], backbone["weight_decay"]) == ("backbone", 0.01, 0.5)
    assert (new["name"], new["lr"], new["weight_decay"]) == ("graft", 0.1, 0.5)
    names = {id(parameter): name for name, parameter in grafted.named_parameters()}
    ours = {names[id(parameter)] for parameter in new["params"]}
    assert ours == {
        name for name in names.values() if "mechanism" in name or "scales" in name or name.startswith("fc.")
    }
    assert len(backbone["params"]) + len(new["params"]) == len(names)
    assert param_groups(grafted, 0.01)[1]["lr"] == 0.01
    torch.optim.SGD(param_groups(grafted, 0.01))


def test_scales_learn_and_then_the_mechanism_does():
    torch.manual_seed(0)
    grafted = graft(small_resnet(num_classes=3), "mrla_l").train()
    optimizer = torch.optim.SGD(param_groups(grafted, 0.01))
    x, y = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    for step in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(grafted(x), y).backward()
        value = grafted.layer2.mechanism.projections[1].value.weight
        assert bool(value.grad.any()) == (step > 0)
        assert grafted.layer2.scales["1"].grad.any()
        optimizer.step()


def test_checkpointing_of_gradients_is_refused_not_wrong():
    grafted = graft(small_resnet(num_classes=3), "dla_l").train()
    grafted.set_grad_checkpointing(True)
    with pytest.raises(RuntimeError, match="cannot be gradient-checkpointed"):
        grafted(torch.randn(2, 3, 64, 64)).sum().backward()


def test_names_in_timms_registry():
    assert {"resnet50_dla_l", "resnet101_mrla_b", "deit_tiny_dla_b"} <= set(timm.list_models("*la_*"))
    assert "deit_tiny_rla_g" not in timm.list_models("*")
    model = timm.create_model("resnet18_dla_l", num_classes=3, in_chans=1, cell="paper", drop_path_rate=0.1)
    assert model.eval()(torch.randn(1, 1, 64, 64)).shape == (1, 3)
    assert model.stages[0].mechanism.branches[0][1].drop_prob == 0.1
    assert model.get_classifier().out_features == 3
    assert model.pretrained_cfg["classifier"] == "fc"
    same = crosslayer.create_model("resnet18", "dla_l", num_classes=3, in_chans=1, cell="paper")
    assert list(same.state_dict()) == list(model.state_dict())
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model("resnet18_dla_l", pretrained=True)


def test_registered_networks_give_features():
    features = timm.create_model("resnet18_dla_l", features_only=True)
    assert features.feature_info.channels() == [64, 64, 128, 256, 512]
    assert features.feature_info.reduction() == [2, 4, 8, 16, 32]
    maps = features.eval()(torch.randn(1, 3, 64, 96))
    assert [m.shape[1:] for m in maps] == [(64, 32, 48), (64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)]
    some = timm.create_model("resnet18_dla_l", features_only=True, out_indices=(1, 2))
    assert len(some.model.stages) == 2
    tokens = timm.create_model("deit_tiny_dla_l", features_only=True, out_indices=[0])
    assert tokens(torch.randn(1, 3, 48, 80))[0].shape == (1, 192, 3, 5)
