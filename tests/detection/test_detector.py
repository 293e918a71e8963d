"""Detectors over many networks: what they find room for, what learns, where weights come from, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import crosslayer
from crosslayer.detection.networks import load_backbone
from crosslayer.detection.pyramid import PyramidBackbone
from crosslayer.errors import FailedError
from crosslayer.reports.detector_sizes import TABLE_3, DetectorRow, measure_detector
from tests.cases import only

LIGHT = {"pyramid_channels": 16, "min_size": 64, "max_size": 96}
TARGET = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([2])}


def create(name="faster_rcnn", backbone="resnet18", mechanism="dla_l", classes=3, weights=None, **options):
    torch.manual_seed(0)
    return crosslayer.create_detector(name, backbone, mechanism, classes, weights, **LIGHT, **options)


def learning(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("backbone", "mechanism", "graft"),
    [
        ("resnet18", "dla_l", False),
        ("resnet18", "mrla_b", False),
        ("resnet50", "rla_g", False),
        ("resnet18", "none", False),
        ("tf_efficientnet_lite0", "dla_l", True),
        ("convnext_atto", "mrla_l", True),
        ("resnet18", "se", True),
    ],
)
def test_every_parameter_that_learns_gets_a_gradient(backbone: str, mechanism: str, graft: bool):
    model = create(backbone=backbone, mechanism=mechanism, graft=graft).train()
    losses = model([torch.rand(3, 64, 80), torch.rand(3, 80, 64)], [TARGET, TARGET])
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_images_without_objects_train():
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    model = create("mask_rcnn", "resnet18").train()
    losses = model([torch.rand(3, 64, 80)], [nothing | {"masks": torch.zeros(0, 64, 80, dtype=torch.uint8)}])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_detections_are_in_the_pixels_of_the_image():
    model = create("mask_rcnn").eval()
    model.roi_heads.score_thresh = 0.0
    (found,) = model([torch.rand(3, 50, 120)])
    assert found["masks"].shape[1:] == (1, 50, 120)
    assert found["boxes"].shape == (len(found["scores"]), 4)
    assert found["boxes"].amax(0).le(torch.tensor([120, 50, 120, 50])).all()
    assert set(found["labels"].tolist()) <= {1, 2, 3}


@pytest.mark.parametrize(("stages", "first"), [(-1, "conv1"), (0, "stages.0"), (1, "stages.1"), (3, "stages.3")])
def test_frozen_stages(stages: int, first: str):
    model = create(frozen_stages=stages)
    body = "backbone.body.model."
    parts = ("conv1", "bn1", "stages.0", "stages.1", "stages.2", "stages.3")
    frozen = parts[: parts.index(first)]
    for name in dict(model.named_parameters()):
        if name.startswith(body):
            assert (name in learning(model)) != name.removeprefix(body).startswith(frozen or "?"), name
        else:
            assert name in learning(model)


def test_frozen_parts_of_a_graft():
    model = create(backbone="tf_efficientnet_lite0", graft=True, frozen_stages=1)
    body = "backbone.body.model."
    frozen = {name.removeprefix(body) for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"conv_stem", "bn1", "blocks"}
    assert {name.split(".")[1] for name in frozen if name.startswith("blocks")} == {"0", "1"}
    assert any("mechanism" in name for name in frozen)


def test_what_is_frozen_keeps_its_statistics_and_drops_no_path():
    model = create(drop_path=0.5).train()
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    body = model.backbone.body.model
    assert not any(module.training for module in body.stages[0].modules())
    assert body.stages[1].mechanism.branches[0][1].training
    before = {name: value.clone() for name, value in model.named_buffers()}
    model([torch.rand(3, 64, 64)], [TARGET])
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    free = create(freeze_norm=False, frozen_stages=-1).train()
    assert all(m.training for m in free.modules() if isinstance(m, nn.BatchNorm2d))


def test_weights_of_the_plain_network_leave_the_mechanism_fresh(tmp_path: Path):
    plain = timm.create_model("resnet18", num_classes=5)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    model = create(weights=tmp_path / "plain.pth")
    body = model.backbone.body.model
    assert torch.equal(body.conv1.weight, plain.conv1.weight)
    assert torch.equal(body.stages[3].blocks[1].conv2.weight, plain.layer4[1].conv2.weight)
    assert torch.equal(body.stages[2].blocks[0].shortcut[0].weight, plain.layer3[0].downsample[0].weight)


def test_weights_with_the_mechanism(tmp_path: Path):
    whole = crosslayer.create_model("resnet18", "dla_l", num_classes=7)
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "whole.pt")
    body = create(weights=tmp_path / "whole.pt").backbone.body.model
    ours, theirs = body.state_dict(), whole.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_authors_checkpoint():
    """Keys as MRLA's authors have them: a stage's blocks by number, the attention within."""
    whole = crosslayer.create_model("resnet18", "mrla_l", num_classes=7)
    released = {}
    for name, value in whole.state_dict().items():
        parts = name.split(".")
        if parts[0] != "stages":
            released[name] = value
            continue
        stage, rest = f"layer{int(parts[1]) + 1}", ".".join(parts[2:])
        rest = rest.replace("blocks.", "").replace(".shortcut.", ".downsample.")
        if "mechanism" in rest:
            _, kind, t, *more = rest.split(".")
            inner = {"lambdas": "mrla.lambda_t", "branches": f"bn_mrla.{more[-1] if more else ''}"}.get(kind)
            if kind == "projections":
                inner = f"mrla.mrla.W{more[0][0]}.weight"
            rest = f"{t}.{inner}"
        released[f"{stage}.{rest}"] = value
    model = crosslayer.create_model("resnet18", "mrla_l", num_classes=1)
    load_backbone(model, released, "released", ("fc",))
    assert torch.equal(model.stages[1].mechanism.lambdas[0], whole.stages[1].mechanism.lambdas[0])


def test_a_graft_takes_the_statistics_of_its_weights():
    known = timm.get_pretrained_cfg("tf_efficientnet_lite0")
    model = create(backbone="tf_efficientnet_lite0", graft=True)
    assert model.transform.image_mean.tolist() == pytest.approx(list(known.mean))
    assert "transform.image_mean" in model.state_dict()


def test_weights_by_a_name_of_timms(monkeypatch: pytest.MonkeyPatch):
    """The download is left out: what timm would return is a network with other weights than ours."""
    torch.manual_seed(5)
    make = timm.create_model
    theirs = make("resnet18")
    asked = []

    def download(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        if not pretrained:
            return make(name, **options)
        asked.append((name, pretrained))
        return theirs

    monkeypatch.setattr(timm, "create_model", download)
    model = create(weights="resnet18.a1_in1k")
    assert asked == [("resnet18.a1_in1k", True)]
    assert torch.equal(model.backbone.body.model.stages[1].blocks[0].conv1.weight, theirs.layer2[0].conv1.weight)
    assert model.transform.image_std.tolist() == pytest.approx(list(theirs.pretrained_cfg["std"]))


def test_a_download_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    make = timm.create_model

    def fail(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        if not pretrained:
            return make(name, **options)
        raise OSError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(FailedError, match=r"cannot get timm's weights of resnet18 \(no route\); give a file or a run"):
        create(weights="resnet18")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "faster_rcn"}, "unknown detector 'faster_rcn'; did you mean faster_rcnn"),
        ({"backbone": "resnet51"}, "unknown backbone 'resnet51'; did you mean resnet"),
        ({"mechanism": "dla_x"}, "unknown mechanism 'dla_x'"),
        ({"backbone": "deit_tiny"}, "has maps of strides 16; a detector needs 4, 8, 16 and 32"),
        ({"backbone": "cifar_resnet20"}, "has maps of strides 1, 2, 4; a detector needs"),
        ({"backbone": "efficientnot", "graft": True}, "unknown network of timm 'efficientnot'"),
        ({"classes": 0}, "num_classes is 0"),
        ({"frozen_stages": 5}, "frozen_stages is 5; it is from -1"),
        ({"weights": "nowhere/at_all"}, "there is no such run directory, no such file, and no such network of timm"),
        ({"reduction": 0}, "reduction"),
    ],
)
def test_refusals(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        create(**arguments)


def test_weights_of_another_network_are_refused(tmp_path: Path):
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth.: these are another network's weights"):
        create(weights=tmp_path / "other.pth")


def test_a_pyramid_by_itself():
    pyramid = PyramidBackbone(
        crosslayer.create_model("resnet18", "none", num_classes=2), frozen_stages=-1, freeze_norm=False, channels=8
    )
    maps = pyramid(torch.rand(1, 3, 64, 96))
    assert [tuple(map_.shape[1:]) for map_ in maps.values()] == [(8, 16 // s, 24 // s) for s in (1, 2, 4, 8)] + [
        (8, 1, 2)
    ]


def row_name(row: DetectorRow) -> str:
    return f"{row.detector}-{row.backbone}-{row.mechanism}"


@pytest.mark.parametrize("row", only(TABLE_3, lambda row: row.backbone == "resnet50"), ids=row_name)
def test_sizes_of_the_paper(row: DetectorRow):
    """29 of 30 rows; why the other differs is not known (docs/detection.md)."""
    other = row_name(row) == "mask_rcnn-resnet101-gc"
    assert measure_detector(row).agrees != other
    assert len(TABLE_3) == 30
