"""Grafts on segmentation-models-pytorch: whole networks, or their encoders."""

from typing import Any

import pytest
import torch
from torch import nn

from crosslayer import graft
from tests.hosts.checks import EACH, MECHANISMS, assert_same, check_all, graft_with

smp: Any = pytest.importorskip("segmentation_models_pytorch", reason="segmentation-models-pytorch is not installed")
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
HOSTS = {
    "unet": (
        lambda: smp.Unet("resnet18", encoder_weights=None, classes=3),
        [f"encoder.layer{i}" for i in (1, 2, 3, 4)],
    ),
    "fpn": (
        lambda: smp.FPN("tu-tf_efficientnet_lite0", encoder_weights=None, decoder_dropout=0.0),
        [f"encoder.model.blocks.{i}" for i in (1, 2, 3, 4, 5)],
    ),
    "segformer": (
        lambda: smp.Segformer("mit_b0", encoder_weights=None),
        [f"encoder.block{i}" for i in (1, 2, 3, 4)],
    ),
}


def run(model: nn.Module) -> Any:
    return model(IMAGES)


@pytest.mark.parametrize("mechanism", EACH)
@pytest.mark.parametrize(("make", "stages"), HOSTS.values(), ids=HOSTS)
def test_trains_from_identity_and_is_saved(make, stages: list[str], mechanism: str):
    trained = check_all(make, graft_with(mechanism, **MECHANISMS[mechanism]), run)
    assert [attachment.path for attachment in vars(trained)["attachments"]] == stages


def test_an_encoder_by_itself():
    torch.manual_seed(0)
    model = smp.Unet("resnet18", encoder_weights=None).eval()
    with torch.no_grad():
        plain = model(IMAGES)
        model.encoder = graft(model.encoder, "dla_l")
        assert_same(model(IMAGES), plain)


def test_encoders_whose_stages_are_no_modules_are_refused():
    with pytest.raises(ValueError, match="nothing repeats in Unet"):
        graft(smp.Unet("efficientnet-b0", encoder_weights=None), "dla_l")
