"""Grafts on the YOLOs of Ultralytics."""

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from crosslayer import graft
from tests.hosts.checks import (
    EACH,
    MECHANISMS,
    assert_close,
    check_identity,
    check_saving,
    graft_with,
    train,
)

os.environ.setdefault("YOLO_OFFLINE", "true")  # it asks the net for newer versions, fonts and weights else
ultralytics: Any = pytest.importorskip("ultralytics", reason="ultralytics is not installed")
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
BATCH = {
    "img": IMAGES,
    "batch_idx": torch.tensor([0.0, 1.0]),
    "cls": torch.tensor([[0.0], [3.0]]),
    "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.4, 0.6, 0.5, 0.3]]),
}
"""Two images with an object each, as Ultralytics gives them to its networks."""
HOSTS = {
    "yolov8n": ["model.4.m", "model.6.m"],
    "yolo11n": ["model.6.m.0.m", "model.8.m.0.m", "model.22.m.0.m"],
}


def make(name: str) -> Any:
    model = ultralytics.YOLO(f"{name}.yaml").model
    model.args = ultralytics.cfg.get_cfg()
    return model


def run(model: nn.Module) -> Any:
    return model(IMAGES)


def loss(outputs: tuple[Tensor, Any]) -> Tensor:
    return outputs[0].sum()


@pytest.mark.parametrize("mechanism", EACH)
@pytest.mark.parametrize(("name", "stages"), HOSTS.items())
def test_trains_from_identity_and_is_saved(name: str, stages: list[str], mechanism: str):
    torch.manual_seed(0)
    grafting = graft_with(mechanism, **MECHANISMS[mechanism])
    check_identity(make(name), grafting, run)
    trained = grafting(make(name))
    assert [attachment.path for attachment in vars(trained)["attachments"]] == stages
    train(trained, lambda model: model(BATCH), loss)
    check_saving(trained, grafting(make(name)), run)


@pytest.mark.parametrize("name", HOSTS)
def test_fused_normalisations(name: str):
    """Ultralytics folds its normalisations into convolutions, and leaves the mechanism's alone."""
    torch.manual_seed(0)
    model = graft(make(name), "dla_l", start="published").eval()
    fused: Any = copy.deepcopy(model)
    with torch.no_grad():
        assert_close(fused.fuse(verbose=False)(IMAGES)[0], model(IMAGES)[0])


@pytest.mark.exhaustive
def test_larger_ones_are_grafted_where_their_blocks_repeat():
    (first, *_) = vars(graft(make("yolo11m"), "se"))["attachments"]
    assert first.path == "model.2.m.0.m"


def tiny_data(root: Path) -> Path:
    """Two images to train on and two to validate on, in Ultralytics' layout."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(2):
            pixels = random.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"{i}.png")
            (root / "labels" / split / f"{i}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (root / "data.yaml").write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: [thing]\n")
    return root / "data.yaml"


@pytest.mark.slow
def test_its_trainer_trains_and_its_files_keep_the_graft(tmp_path: Path):
    from ultralytics.models.yolo.detect import DetectionTrainer

    class GraftTrainer(DetectionTrainer):
        def get_model(self, *args: Any, **kwargs: Any) -> Any:
            return graft(super().get_model(*args, **kwargs), "mrla_l")

    yolo = ultralytics.YOLO("yolov8n.yaml")
    options = {"epochs": 1, "imgsz": 64, "batch": 2, "workers": 0, "device": "cpu", "plots": False, "amp": False}
    yolo.train(trainer=GraftTrainer, data=str(tiny_data(tmp_path / "data")), project=str(tmp_path), **options)
    saved = ultralytics.YOLO(yolo.trainer.last)
    scales = saved.model.model[4].m.scales["0"]
    assert scales.any()
    plain = copy.deepcopy(saved.model).eval()
    nn.init.zeros_(plain.model[4].m.scales["0"])
    with torch.no_grad():
        assert not torch.equal(plain(IMAGES)[0], saved.model.eval()(IMAGES)[0])
