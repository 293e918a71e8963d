"""Grafting onto networks of timm: what is found, what is kept, what is refused."""

import copy
import logging
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.utils import _pytree as pytree

import crosslayer
from crosslayer import graft, list_mechanisms, param_groups
from crosslayer.models.grafted_stage import GraftedStage
from tests.mechanisms.hosts import fits


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
    "pvt_v2_b0": ["stages.0.blocks 2 32", "stages.1.blocks 2 64", "stages.2.blocks 2 160", "stages.3.blocks 2 256"],
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
        (
            "xcit_nano_12_p16_224",
            "dla_l",
            {},
            r"say grid=\(height, width\) and prefix_tokens=n.* 14×14, which leaves 0",
        ),
        ("xcit_nano_12_p16_224", "dla_l", {"grid": (7, 7)}, "nor 0 tokens and those of a map of 7×7"),
        ("resnet18", "dla_l", {"grid": (7, 7)}, "grid and prefix_tokens are for tokens, and ResNet has maps"),
        ("resnet18", "dla_l", {"grid": (7, 0)}, r"grid is \(7, 0\); it is the height and width"),
        ("resnet18", "dla_l", {"prefix_tokens": -1}, "prefix_tokens is -1; it is the number"),
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


def test_blocks_called_one_by_one_look_back():
    class Indexed(nn.Module):
        """Calls its blocks by number."""

        def __init__(self) -> None:
            super().__init__()
            pair = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)) for _ in range(2)]
            self.blocks = nn.ModuleList(pair)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for i in range(2):
                x = self.blocks[i](x)
            return x.mean((2, 3))

    model, x = Indexed(), torch.randn(2, 3, 8, 8)
    assert torch.equal(graft(model, "se")(x), model(x))
    assert not torch.allclose(graft(model, "se", start="published")(x), model(x))


@pytest.mark.parametrize(
    ("name", "attached"),
    [
        ("visformer_tiny", [7, 4, 4]),  # its patches are of maps
        ("tresnet_m", [3, 4, 11, 3]),  # its images are made to have 48 channels by no convolution
        ("test_vit", [6]),
    ],
)
def test_networks_whose_images_are_not_what_their_first_layers_say(name: str, attached: list[int]):
    assert [a.blocks for a in graft(timm.create_model(name), "se").attachments] == attached


def test_a_network_that_takes_no_image_is_refused():
    class Odd(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise LookupError(f"nothing for {len(x)}")

    with pytest.raises(ValueError, match=r"Odd takes no image of 3×224×224 \(nothing for 1\)"):
        graft(Odd(nn.Conv2d(3, 3, 1)), "se")


def test_blocks_may_be_called_as_a_grafts_own_parts():
    class Clashing(nn.Sequential):
        """Its blocks have the names that a graft gives its mechanism and scales."""

        def __init__(self) -> None:
            names = ("mechanism", "scales", "walk", "channels", "scales_")
            super().__init__(OrderedDict((n, nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))) for n in names))

    model, x = nn.Sequential(Clashing(), nn.Flatten()).eval(), torch.randn(2, 3, 8, 8)
    grafted = graft(model, "mrla_b")
    assert torch.equal(grafted(x), model(x))
    assert set(model.state_dict()) < set(grafted.state_dict())
    fresh = graft(model, "mrla_b")
    fresh.load_state_dict(grafted.state_dict())
    assert {name.split(".")[1] for name, _ in grafted.named_parameters()} == {
        *("mechanism", "scales", "walk", "channels", "scales_"),
        *("mechanism_", "scales__"),
    }
    assert not torch.equal(graft(model, "mrla_b", start="published")(x), model(x))


def test_told_tokens_are_kept_by_saved_networks(tmp_path: Path):
    model = timm.create_model("cait_xxs24_224", num_classes=3, img_size=32, depth=2, depth_token_only=1).eval()
    grafted = graft(model, "mrla_l", start="published", grid=(2, 2), prefix_tokens=0).eval()
    crosslayer.save_pretrained(grafted, tmp_path)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(crosslayer.from_pretrained(tmp_path).eval()(x), grafted(x))


def test_checkpointed_transformer_of_other_sizes():
    """What is recomputed makes the map that was made before, whatever size came since."""
    grafted = graft(small_vit(dynamic_img_size=True), "mrla_l", start="published").train()
    grafted.set_grad_checkpointing()
    loss = grafted(torch.randn(2, 3, 32, 48)).square().sum()
    grafted(torch.randn(2, 3, 48, 48))
    loss.backward()
    assert all(p.grad is not None for p in grafted.blocks.mechanism.parameters())


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


@pytest.mark.parametrize("own", [True, False], ids=["deit", "graft"])
def test_blocks_are_iterated_indexed_and_sliced_as_timms(own: bool):
    model = crosslayer.create_model("deit_tiny", "mrla_l", num_classes=5) if own else graft(small_vit(), "mrla_l")
    blocks = list(model.blocks)
    assert len(blocks) == len(model.blocks) == (12 if own else 4)
    assert all(isinstance(block.attn, nn.Module) for block in model.blocks)
    assert model.blocks[0] is blocks[0]
    assert model.blocks[-1] is blocks[-1]
    for part in (slice(None, 2), slice(-2, None), slice(1, 3), slice(None, None, 2), slice(None), slice(0)):
        assert list(model.blocks[part]) == blocks[part]
    for block in model.blocks[-2:]:
        block.requires_grad_(False)
    assert not any(p.requires_grad for p in model.blocks[-1].parameters())
    assert all(p.requires_grad for p in model.blocks[0].parameters())
    tokens = torch.randn(1, 197, 192) if own else torch.randn(1, 17, 32)
    model.eval()
    assert torch.equal(model.blocks[2:](model.blocks[:2](tokens)), model.blocks(tokens))


def test_a_transformer_is_told_another_size():
    grafted = graft(small_vit(), "mrla_l", start="published").eval()
    grafted.set_input_size(img_size=48)
    assert grafted(torch.randn(2, 3, 48, 48)).shape == (2, 5)


@pytest.mark.parametrize("model", [small_resnet, small_vit])
@pytest.mark.parametrize("mechanism", ["se", "dla_l", "mrla_l"])
def test_checkpointed_gradients_are_the_same(model, mechanism: str):
    grafted = graft(model(), mechanism, start="published").train()
    x = torch.randn(2, 3, *(32, 32) if model is small_vit else (64, 64))
    made = []
    for checkpointed in (False, True):
        grafted.set_grad_checkpointing(checkpointed)
        for module in grafted.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # its statistics would move twice
        grafted.zero_grad()
        grafted(x).square().sum().backward()
        made.append({name: p.grad.clone() for name, p in grafted.named_parameters() if p.grad is not None})
    assert made[0].keys() == made[1].keys()
    for name, gradient in made[0].items():
        torch.testing.assert_close(made[1][name], gradient)


FAMILIES = ["repvit_m0_9", "efficientvit_m0", "efficientformerv2_s0", "levit_conv_128s", "shvit_s1", "csatv2"]
"""Networks some of whose parts are called as a graft's own might be, and one where nothing repeats."""
MOST_PARAMETERS, MANY_PARAMETERS = 200_000_000, 30_000_000
"""Networks with more than the first are left out, and those with more than the second carry one mechanism only."""


def parameters(name: str) -> int:
    """How many a network of timm has, without making them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in timm.create_model(name).parameters())


def check_carried_or_refused(name: str, *mechanisms: str) -> None:
    """Outputs are the same to the bit with every mechanism, or a sentence says why there is none."""
    model = timm.create_model(name).eval()
    image = torch.rand(2, *(model.pretrained_cfg.get("input_size") or (3, 224, 224)))
    with torch.no_grad():
        plain = model(image)
    for mechanism in mechanisms:
        try:
            grafted, refusal = graft(model, mechanism), ""
        except ValueError as error:
            grafted, refusal = model, str(error)
        assert grafted is not model or 20 < len(refusal) < 500
        assert "\n" not in refusal
        with torch.no_grad():
            for a, b in zip(pytree.tree_leaves(grafted(image)), pytree.tree_leaves(plain), strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.sampled(3)
def test_one_network_of_a_family_is_carried_or_refused(name: str):
    check_carried_or_refused(name, "none", "se", "dla_l", "mrla_l")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in timm.list_models() if timm.models.model_entrypoint(name).__module__.startswith("timm.")]
)
def test_every_network_of_timm_is_carried_or_refused(name: str):
    count = parameters(name)
    if count > MOST_PARAMETERS:
        pytest.skip(f"{count:,} parameters")
    check_carried_or_refused(name, *(("dla_l",) if count > MANY_PARAMETERS else ("none", "se", "dla_l", "mrla_l")))


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


IDENTICAL = {"a2", "delta_attnres", "denseformer", "gc", "hc", "laurel", "nl"}


@pytest.mark.parametrize("mechanism", sorted({name for name in list_mechanisms() if fits("timm_resnet", name)}))
@pytest.mark.sampled(3)
def test_whatever_starts_as_identity_learns(mechanism: str):
    """No factor of zero stands before another: within three steps every mechanism has moved."""
    torch.manual_seed(0)
    start = "published" if mechanism in ("delta_attnres", "hc", "laurel") else "identity"
    grafted = graft(small_resnet(num_classes=3, zero_init_last=False), mechanism, start=start).train()
    stages = [module for module in grafted.modules() if isinstance(module, GraftedStage)]
    scaled = any(".scales." in name for name, _ in grafted.named_parameters())
    assert [stage.own_mechanism.starts_as_identity for stage in stages] == [mechanism in IDENTICAL] * len(stages)
    assert not (scaled and mechanism in IDENTICAL)
    before = {name: p.detach().clone() for name, p in grafted.named_parameters() if ".mechanism." in name}
    optimizer = torch.optim.SGD(param_groups(grafted, 0.1))
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(grafted(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    after = dict(grafted.named_parameters())
    moved = [name for name, p in before.items() if not torch.equal(after[name], p)]
    assert moved or not before


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


def test_what_a_closed_block_reads_leaves_its_shortcut_alone():
    """A block makes h + f(h) of what it reads; the stream becomes x + f(h), as in networks with open blocks."""
    model = graft(small_vit(), "delta_attnres", start="published", gate="none").double().eval()
    x, (depth, stage) = torch.randn(2, 16 + 1, 32, dtype=torch.float64), (4, model.blocks)
    mechanism = copy.deepcopy(stage.own_mechanism)
    blocks = copy.deepcopy(small_vit()).double().eval().blocks
    blocks.load_state_dict({k: v for k, v in stage.state_dict().items() if not k.startswith("mechanism")})
    stream = x.transpose(1, 2).unsqueeze(3)
    state = mechanism.start(stream, None)
    for t in range(depth):
        read, state = mechanism.read(t, stream, state)
        assert torch.equal(read, stream) == (t == 0)
        h = read.squeeze(3).transpose(1, 2)
        branch = (blocks[t](h) - h).transpose(1, 2).unsqueeze(3)
        stream, state = mechanism.join(t, branch, stream, state, torch.add)
    torch.testing.assert_close(stage(x), stream.squeeze(3).transpose(1, 2))
