"""The same figures as pycocotools has for the same detections."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crosslayer.detection.average_precision import average_precision
from crosslayer.detection.coco import read_annotations
from crosslayer.detection.source import val_annotations
from tests.conftest import shared


def guesses(truth: dict[str, Any], seed: int, category_ids: list[int]) -> list[dict[str, Any]]:
    """The annotated objects, moved a little, some of them doubled or of another category, some missed."""
    random = np.random.RandomState(seed)
    found = []
    for annotation in truth["annotations"]:
        for _ in range(random.choice([0, 1, 1, 1, 2])):
            left, top, width, height = annotation["bbox"]
            shift = random.normal(0, 0.06, 4) * [width, height, width, height]
            box = [left + shift[0], top + shift[1], max(1, width + shift[2]), max(1, height + shift[3])]
            category = annotation["category_id"] if random.rand() < 0.8 else int(random.choice(category_ids))
            found.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": category,
                    "bbox": [float(side) for side in box],
                    "score": float(random.rand()),
                }
            )
    return found


def with_masks(found: list[dict[str, Any]], truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Every guess with its box as a mask."""
    from pycocotools import mask

    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    masked = []
    for guess in found:
        height, width = sizes[guess["image_id"]]
        left, top, w, h = guess["bbox"]
        pixels = np.zeros((height, width), np.uint8, order="F")
        pixels[max(0, round(top)) : round(top + h), max(0, round(left)) : round(left + w)] = 1
        rle = mask.encode(pixels)
        masked.append(guess | {"segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}})
    return masked


def theirs(file: Path, found: list[dict[str, Any]], what: str) -> tuple[np.ndarray, dict[int, float]]:
    """Pycocotools' own six figures and each category's average precision, in %."""
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO(str(file))
        results = [{k: v for k, v in each.items() if what == "bbox" or k != "bbox"} for each in found]
        evaluator = COCOeval(annotated, annotated.loadRes(results), what)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    categories = {
        category: 100 * float(values[values > -1].mean())
        for category, values in zip(evaluator.params.catIds, np.moveaxis(precision, 2, 0), strict=True)
        if (values > -1).any()
    }
    return 100 * evaluator.stats[:6], categories


@pytest.mark.parametrize("what", ["bbox", "segm"])
def test_equal_to_pycocotools_on_real_photos(what: str):
    val = val_annotations(str(shared("coco_tiny")), masks=True)
    found = guesses(val.truth, 0, list(val.categories.ids))
    if what == "segm":
        found = with_masks(found, val.truth)
    ours = average_precision(val.truth, found, what)
    figures, categories = theirs(val.file, found, what)
    assert list(ours.figures.values()) == pytest.approx(figures.tolist(), abs=1e-9)
    measured = {category: value for category, value in ours.categories.items() if value is not None}
    assert measured == pytest.approx(categories, abs=1e-9)
    assert ours.figures["ap"] > 5


@pytest.mark.parametrize("what", ["bbox", "segm"])
def test_equal_to_pycocotools_on_a_drawn_set(coco_set: Path, what: str):
    val = val_annotations(str(coco_set), masks=True)
    found = with_masks(guesses(val.truth, 1, [3, 7]), val.truth)
    ours = average_precision(val.truth, found, what)
    figures, categories = theirs(val.file, found, what)
    assert [value if value is not None else -100 for value in ours.figures.values()] == pytest.approx(figures.tolist())
    assert {k: v for k, v in ours.categories.items() if v is not None} == pytest.approx(categories)
    assert ours.categories[90] is None


def test_a_perfect_detector_and_a_blind_one(coco_set: Path):
    val = val_annotations(str(coco_set), masks=True)
    perfect = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        for a in val.truth["annotations"]
    ]
    assert average_precision(val.truth, perfect, "bbox").figures["ap"] == pytest.approx(100)
    assert average_precision(val.truth, [], "bbox").figures == {
        "ap": 0.0,
        "ap50": 0.0,
        "ap75": 0.0,
        "ap_small": 0.0,
        "ap_medium": None,
        "ap_large": None,
    }


def test_crowds_are_ignored(one_image):
    file, folder = one_image({"bbox": [1, 1, 10, 10]}, {"bbox": [20, 0, 20, 30], "iscrowd": 1})
    truth = read_annotations(file, folder, masks=False).truth
    right = {"image_id": 5, "category_id": 7, "bbox": [1, 1, 10, 10], "score": 0.5}
    within = {"image_id": 5, "category_id": 7, "bbox": [22, 3, 8, 8], "score": 0.9}
    elsewhere = within | {"bbox": [8, 18, 8, 8]}
    assert average_precision(truth, [right, within], "bbox").figures["ap"] == pytest.approx(100)
    assert average_precision(truth, [right, elsewhere], "bbox").figures["ap"] == pytest.approx(50)


def test_ids_and_areas_are_filled_in(one_image):
    """A file of another tool: no ids, areas or crowd flags; figures are of every object all the same."""
    file, folder = one_image({"bbox": [1, 1, 10, 10]}, {"bbox": [20, 10, 15, 15], "category_id": 3})
    assert "area" not in json.loads(file.read_text())["annotations"][0]
    truth = read_annotations(file, folder, masks=False).truth
    found = [{"image_id": 5, "category_id": 7, "bbox": [1, 1, 10, 10], "score": 0.5}]
    result = average_precision(truth, found, "bbox")
    assert result.categories == {3: 0.0, 7: pytest.approx(100), 90: None}
