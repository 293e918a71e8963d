"""Annotations as they are, and every fault that real ones have."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from crosslayer.detection.coco import read_annotations
from crosslayer.detection.scenes import SceneDataset, as_annotated
from crosslayer.detection.source import train_annotations, val_annotations
from crosslayer.detection.texts import PackedTexts
from crosslayer.errors import FailedError, UsageError
from tests.conftest import shared

Write = Callable[..., tuple[Path, Path]]


def test_classes_are_counted_through_gaps(coco_set: Path):
    train = train_annotations(str(coco_set), masks=False)
    assert train.categories.ids == (3, 7, 90)
    assert train.categories.names == ("bar", "square", "rare")
    assert (len(train), len(train.labels)) == (10, 20)
    assert train.labels[train.objects(0)].tolist() == [2, 1]
    assert train.boxes[train.objects(0)][0, 2:].tolist() == (train.boxes[train.objects(0)][0, :2] + 20).tolist()


def test_real_coco():
    train = train_annotations(str(shared("coco_tiny")), masks=True)
    assert (len(train), len(train.categories.ids)) == (80, 80)
    assert train.categories.ids[-1] == 90
    annotations = json.loads(train.file.read_text())["annotations"]
    assert len(train.labels) == sum(not annotation["iscrowd"] for annotation in annotations)
    dataset = SceneDataset(train, None)
    scene = dataset.scene((0, 0), 3)
    assert scene.image.dtype == torch.uint8
    assert scene.target["masks"].shape == (len(scene.target["labels"]), *scene.image.shape[1:])
    for mask, (left, top, right, bottom) in zip(scene.target["masks"], scene.target["boxes"].tolist(), strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        assert rows.min() >= top - 1.5
        assert rows.max() <= bottom + 1.5
        assert columns.min() >= left - 1.5
        assert columns.max() <= right + 1.5


def test_boxes_are_cut_and_crowds_left_out(one_image: Write):
    read = read_annotations(
        *one_image(
            {"bbox": [-5, -5, 15, 15]},
            {"bbox": [35, 25, 50, 50]},
            {"bbox": [5, 5, 0, 10]},
            {"bbox": [50, 5, 10, 10]},
            {"bbox": [5, 5, -3, 4]},
            {"bbox": [0, 0, 40, 30], "iscrowd": 1},
        ),
        masks=False,
    )
    assert read.boxes.tolist() == [[0, 0, 10, 10], [35, 25, 40, 30]]
    assert [annotation["iscrowd"] for annotation in read.truth["annotations"]] == [0, 0, 0, 0, 0, 1]
    assert read.truth["annotations"][0]["area"] == 225


def test_masks(one_image: Write):
    box = {"bbox": [2, 3, 10, 8]}
    counts = [2 * 30 + 3, 8] + [22, 8] * 9 + [40 * 30 - (11 * 30 + 11)]
    read = read_annotations(
        *one_image(
            box | {"segmentation": [[2, 3, 12, 3, 12, 11, 2, 11]]},
            box | {"segmentation": {"size": [30, 40], "counts": counts}},
            box | {"segmentation": [[1, 2, 3, 4]]},
            box | {"segmentation": []},
        ),
        masks=True,
    )
    assert len(read.labels) == 2
    masks = SceneDataset(read, None).scene((0, 0), 0).target["masks"]
    expected = torch.zeros(30, 40, dtype=torch.uint8)
    expected[3:11, 2:12] = 1
    assert torch.equal(masks[0], expected)
    assert torch.equal(masks[1], expected)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"image_id": 6}, r"annotation number 1 in the list has image_id 6, and no image of that id is listed"),
        (
            {"category_id": 8},
            r"annotation number 1 in the list has category_id 8, and no category of that id is listed",
        ),
        ({"bbox": [1, 2, 3]}, r"annotation number 1 in the list \(image 5\) has bbox \[1, 2, 3\]"),
        ({"bbox": [1, 2, 3, "4"]}, r"it is \[left, top, width, height\] in pixels"),
        ({"bbox": [1, 2, float("nan"), 4]}, "has bbox"),
        ({}, r"annotation number 1 in the list \(image 5\) has no segmentation; train faster_rcnn"),
    ],
)
def test_faulty_annotations_are_named(one_image: Write, annotation: dict, message: str):
    with pytest.raises(UsageError, match=message):
        read_annotations(*one_image(annotation), masks=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": [{"id": 5, "file_name": "b.png", "width": 4, "height": 3}]},
            r"list b.png \(image 5\), which is not",
        ),
        ({"images": [{"id": 5, "file_name": "a.png", "width": 4}]}, "image 5 is 4×30 pixels large, and its picture"),
        ({"images": [{"id": "x", "file_name": "a.png", "width": 4, "height": 3}]}, "image 'x' has id 'x'; it is a who"),
        ({"images": [{"id": 5, "file_name": "a.png", "width": 4, "height": 3}] * 2}, "2 entries have the image id 5"),
        ({"images": []}, "no images or no categories"),
        ({"categories": 3}, "have no list 'categories'"),
        ({"annotations": [3]}, "entry 1 of 'annotations' is no object"),
    ],
)
def test_faulty_files_are_named(one_image: Write, changes: dict, message: str):
    with pytest.raises(UsageError, match=message):
        read_annotations(*one_image(**changes), masks=False)


def test_files_that_are_no_annotations(tmp_path: Path):
    with pytest.raises(UsageError, match=r"none.json cannot be read: No such file"):
        read_annotations(tmp_path / "none.json", tmp_path, masks=False)
    (tmp_path / "text.json").write_text("{'a'")
    with pytest.raises(UsageError, match="are no JSON"):
        read_annotations(tmp_path / "text.json", tmp_path, masks=False)


def test_where_a_set_is_looked_for(coco_set: Path, tmp_path: Path):
    for name, message in (("absent", "does not exist"), ("", "found no annotations of train2017 or train")):
        with pytest.raises(UsageError, match=message):
            train_annotations(str(tmp_path / name), masks=False)
    with pytest.raises(UsageError, match="give --data a folder"):
        train_annotations("", masks=False)
    valid = tmp_path / "valid"
    valid.mkdir()
    content = json.loads((coco_set / "annotations" / "instances_val2017.json").read_text())
    for image in content["images"]:
        (valid / image["file_name"]).write_bytes((coco_set / "val2017" / image["file_name"]).read_bytes())
    (valid / "_annotations.coco.json").write_text(json.dumps(content))
    assert len(val_annotations(str(tmp_path), masks=True)) == 4
    (valid / "_annotations.coco.json").write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(UsageError, match="have no object that could be found"):
        val_annotations(str(tmp_path), masks=False)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "I;16", "1"])
def test_any_photo_becomes_rgb(mode: str):
    image = Image.new("L" if mode in ("P", "I;16") else mode, (4, 3))
    pixels = as_annotated(image.convert(mode) if mode in ("P", "I;16") else image, (4, 3), "x")
    assert pixels.shape == (3, 3, 4)
    assert pixels.dtype == torch.uint8


def turned(path: Path, size: tuple[int, int]) -> Path:
    """A picture, dark on the left as it is stored, whose camera was held on its side."""
    image = Image.new("RGB", size, (250, 250, 250))
    image.paste((0, 0, 0), (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    return path


def test_pixels_are_as_the_annotations_have_them(tmp_path: Path):
    """As stored, as COCO's tools look at them; upright where the annotations are of the upright picture's size."""
    path = turned(tmp_path / "turned.png", (40, 20))
    with Image.open(path) as image:
        stored = as_annotated(image, (40, 20), "x")
        upright = as_annotated(image, (20, 40), "x")
        with pytest.raises(FailedError, match="x has 40×20 pixels, its annotations say 41×20"):
            as_annotated(image, (41, 20), "x")
    assert (stored[0, 5, 5], stored[0, 5, 35]) == (0, 250)
    assert upright.shape == (3, 40, 20)
    assert (upright[0, 5, 5], upright[0, 35, 5]) == (0, 250)


def test_packed_texts():
    texts = ["", "[1, 2]", "λ", "x" * 300]
    packed = PackedTexts(texts)
    assert [packed[i] for i in range(len(packed))] == texts
    assert len(PackedTexts([])) == 0
