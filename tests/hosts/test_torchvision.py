"""Grafts on networks of torchvision."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from crosslayer import graft
from tests.hosts.checks import EACH, MECHANISMS, check_all, check_checkpointing, graft_with

models: Any = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def convnext() -> nn.Module:
    """A ConvNeXt of torchvision's with narrow stages."""
    setting = models.convnext.CNBlockConfig
    return models.ConvNeXt([setting(16, 32, 2), setting(32, None, 2)], num_classes=5)


def vit() -> nn.Module:
    """A ViT of torchvision's, smaller than ViT-B/16 in every size but the patches'."""
    model = models.VisionTransformer(64, 16, num_layers=3, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5)
    nn.init.normal_(model.heads.head.weight)  # torchvision starts with zeros, which no gradient passes
    return model


def swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=5, stochastic_depth_prob=0.0)


def resnet() -> nn.Module:
    return models.resnet18(num_classes=5)


def run(model: nn.Module) -> Any:
    return model(IMAGES)


HOSTS = {
    "resnet": (resnet, {}, ["layer1", "layer2", "layer3", "layer4"]),
    "convnext": (convnext, {}, ["features.1", "features.3"]),
    "vit": (vit, {"prefix_tokens": 1}, ["encoder.layers"]),
    "swin": (swin, {}, ["features.1", "features.3"]),
}


@pytest.mark.parametrize("mechanism", EACH)
@pytest.mark.parametrize(("make", "options", "stages"), HOSTS.values(), ids=HOSTS)
def test_trains_from_identity_and_is_saved(make, options: dict, stages: list[str], mechanism: str):
    trained = check_all(make, graft_with(mechanism, **options, **MECHANISMS[mechanism]), run)
    assert [attachment.path for attachment in vars(trained)["attachments"]] == stages


def test_vit_b_16_says_what_is_to_be_said():
    model = models.vit_b_16()
    with pytest.raises(ValueError, match=r"say grid=.* and prefix_tokens=n.*patches are 14×14, which leaves 1"):
        graft(model, "dla_l")
    for options in ({"prefix_tokens": 1}, {"grid": (14, 14), "prefix_tokens": 1}):
        (attachment,) = vars(graft(model, "se", **options))["attachments"]
        assert str(attachment) == "se on encoder.layers: 12 blocks, 768 channels"


@pytest.mark.parametrize(("make", "options", "stages"), HOSTS.values(), ids=HOSTS)
def test_checkpointed_stages(make, options: dict, stages: list[str]):
    torch.manual_seed(0)
    model = graft(make(), "dla_l", start="published", **options).double()
    stage: Any = model.get_submodule(stages[0])
    plain = stage.forward
    ways = [
        lambda x: checkpoint(plain, x, use_reentrant=False),
        lambda x: checkpoint_sequential(stage, 2, x, use_reentrant=False),
        lambda x: [x := checkpoint(block, x, use_reentrant=False) for block in stage][-1],
    ]

    def run_double(model: nn.Module) -> Any:
        return model(IMAGES.double())

    def run_with(way: Any) -> Any:
        stage.forward = way
        try:
            return run_double(model)
        finally:
            stage.forward = plain

    for way in ways:
        check_checkpointing(model, run_double, lambda _, way=way: run_with(way))


def test_parts_of_larger_networks():
    """A detector's backbone is grafted by itself or within its detector."""
    detector = models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=64, max_size=64
    ).eval()
    whole = graft(detector, "se")
    assert [attachment.path for attachment in vars(whole)["attachments"]] == [
        f"backbone.body.layer{i}" for i in (1, 2, 3, 4)
    ]
    with torch.no_grad():
        maps = detector.backbone(IMAGES)
        part = graft(detector.backbone, "se")(IMAGES)
    assert maps.keys() == part.keys()
    assert all(torch.equal(part[name], maps[name]) for name in maps)
