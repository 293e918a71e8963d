"""Annotations as users bring them: harmless oddities have the right value, faults are told by id in one sentence."""

import contextlib
import copy
import functools
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as pycocomask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crosslayer.detection.average_precision import average_precision
from crosslayer.detection.coco import Annotations, read_annotations
from crosslayer.detection.detector import create_detector
from crosslayer.detection.drawing import load_photo
from crosslayer.detection.outlines import RunLengths, checked_outline
from crosslayer.detection.scenes import Augmentation, SceneDataset
from crosslayer.errors import FailedError, UsageError

pytestmark = pytest.mark.sampled(3)

Write = Callable[..., tuple[Path, Path]]
Entry = dict[str, Any]
NAN, INFINITY = float("nan"), float("inf")
TRIANGLE = [[2, 3, 12, 3, 12, 11]]


def image(**changes: Any) -> Entry:
    return {"id": 5, "file_name": "a.png", "width": 40, "height": 30} | changes


def compressed(pixels: np.ndarray) -> str:
    return pycocomask.encode(np.asfortranarray(pixels))["counts"].decode()


def rectangle(height: int = 30, width: int = 40) -> np.ndarray:
    pixels = np.zeros((height, width), np.uint8)
    pixels[3:11, 2:12] = 1
    return pixels


def test_nothing_to_learn_from_is_no_lack_of_masks(one_image: Write):
    read = read_annotations(*one_image({"bbox": [50, 2, 3, 4], "segmentation": TRIANGLE}), masks=True)
    assert SceneDataset(read, None).scene((0, 0), 0).target["masks"].shape == (0, 30, 40)


# What works, and with which value


@pytest.mark.parametrize(
    ("value", "crowd"),
    [(None, 0), (0, 0), (1, 1), ("0", 0), ("1", 1), (True, 1), (False, 0), (0.0, 0), (1.0, 1)],
)
def test_crowd_flags(one_image: Write, value: Any, crowd: int):
    read = read_annotations(*one_image({"iscrowd": value}, {}), masks=False)
    assert [annotation["iscrowd"] for annotation in read.truth["annotations"]] == [crowd, 0]
    assert len(read.labels) == 2 - crowd


@pytest.mark.parametrize(("value", "area"), [(None, 100.0), (7, 7.0), (0, 0.0), (12.5, 12.5)])
def test_areas(one_image: Write, value: Any, area: float):
    read = read_annotations(*one_image({"area": value}), masks=False)
    assert read.truth["annotations"][0]["area"] == area


def test_boxes_drawn_backwards_have_no_area(one_image: Write):
    read = read_annotations(*one_image({"bbox": [11, 12, -10, 10]}, {"bbox": [11, 12, -10, -10]}), masks=False)
    assert [annotation["area"] for annotation in read.truth["annotations"]] == [0, 0]
    assert len(read.labels) == 0


@pytest.mark.parametrize("own", [None, 5.0, "left-2", 2**80, 0, -3])
def test_ids_of_annotations_are_only_names(one_image: Write, own: Any):
    """They may be absent, texts, or shared."""
    read = read_annotations(*one_image({"id": own}, {"id": own, "bbox": [3, 4, 5, 6]}), masks=False)
    assert read.boxes.tolist() == [[1, 2, 11, 12], [3, 4, 8, 10]]
    assert [annotation["id"] for annotation in read.truth["annotations"]] == [1, 2]


@pytest.mark.parametrize("own", [0, -5, 2**31, 2**63 - 1, -(2**63), 5.0])
def test_ids_of_images_and_categories(one_image: Write, own: float):
    categories = [{"id": own, "name": "x"}, {"id": 7, "name": "y"}]
    place = one_image(
        {"image_id": own}, {"image_id": own, "category_id": own}, images=[image(id=own)], categories=categories
    )
    read = read_annotations(*place, masks=False)
    assert read.ids == [int(own)]
    assert set(read.categories.ids) == {int(own), 7}
    assert all(isinstance(each, int) for each in (*read.ids, *read.categories.ids))
    assert [read.categories.names[label - 1] for label in read.labels.tolist()] == ["y", "x"]
    found = [{"image_id": int(own), "category_id": 7, "bbox": [1, 2, 10, 10], "score": 0.5}]
    assert average_precision(read.truth, found, "bbox").categories == {int(own): 0.0, 7: pytest.approx(100)}


@pytest.mark.parametrize("changes", [{"width": None}, {"height": None, "width": None}, {"width": 40.0, "height": 30.0}])
def test_sizes_that_are_not_told_are_the_pictures_own(one_image: Write, changes: Entry):
    read = read_annotations(*one_image(images=[image(**changes)]), masks=False)
    assert read.sizes.tolist() == [[40, 30]]
    assert read.truth["images"] == [{"id": 5, "width": 40, "height": 30}]
    without = {name: value for name, value in image().items() if name not in changes}
    assert read_annotations(*one_image(images=[without]), masks=False).sizes.tolist() == [[40, 30]]


def test_names_of_categories(one_image: Write):
    """Those that two categories share are told with their ids, so that no figure is lost."""
    categories = [{"id": 1, "name": "ball"}, {"id": 2}, {"id": 0, "name": "ball"}, {"id": 3, "name": None}]
    categories += [{"id": 4, "name": 17}, {"id": 5, "name": "a\nb\ud800"}, {"id": 6, "name": ""}, {"id": 7}]
    read = read_annotations(*one_image(categories=categories), masks=False)
    assert read.categories.names == ("ball (0)", "ball (1)", "2", "3", "17", "a\\nb\\ud800", "", "7")


def test_what_is_not_asked_for_is_not_looked_at(one_image: Write):
    """Other tools' keys; segmentations, where boxes are trained."""
    odd: Entry = {"segmentation": "none", "attributes": {"occluded": [[]]}, "keypoints": NAN, "score": None}
    place = one_image(odd, images=[image(license=None, coco_url=3)], info=None, licenses={"a": 1})
    assert len(read_annotations(*place, masks=False).labels) == 1


@pytest.mark.parametrize("name", ["./a.png", "../{folder}/a.png", "{absolute}/a.png", "ü ß/b.png"])
def test_file_names(one_image: Write, tmp_path: Path, name: str):
    (tmp_path / "ü ß").mkdir()
    Image.new("L", (40, 30)).save(tmp_path / "ü ß" / "b.png")
    name = name.format(folder=tmp_path.name, absolute=tmp_path)
    read = read_annotations(*one_image({}, images=[image(file_name=name)]), masks=False)
    assert SceneDataset(read, None).scene((0, 0), 0).image.shape == (3, 30, 40)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_encodings_of_json(one_image: Write, encoding: str):
    file, folder = one_image({}, categories=[{"id": 7, "name": "größe"}])
    file.write_bytes(json.dumps(json.loads(file.read_text()), ensure_ascii=False).encode(encoding))
    assert read_annotations(file, folder, masks=False).categories.names == ("größe",)


@pytest.mark.parametrize(
    "outline",
    [
        [[2, 3, 12, 3, 12, 11, 2, 11]],
        [[2, 3, 12, 3, 12, 11, 2, 11], [], [5, 5], [5, 5, 9, 9]],
        [[2, 3, 7, 3, 7, 11, 2, 11], [7.0, 3, 12, 3, 12, 11, 7, 11]],
        {"size": [30, 40], "counts": compressed(rectangle())},
        {"size": [30, 40], "counts": [63, 8, *[22, 8] * 9, 859], "extra": None},
        {"size": [30, 40], "counts": [60, 0, 3, 8, *[22, 8] * 9, 859, 0]},
    ],
)
def test_outlines(one_image: Write, outline: Any):
    read = read_annotations(*one_image({"bbox": [2, 3, 10, 8], "segmentation": outline}), masks=True)
    assert np.array_equal(SceneDataset(read, None).scene((0, 0), 0).target["masks"][0].numpy(), rectangle())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([0.0, 0.02, 0.5, 1.0]), st.integers(0, 99))
def test_compressed_run_lengths_are_measured(height: int, width: int, density: float, seed: int):
    pixels = (np.random.RandomState(seed).rand(height, width) < density).astype(np.uint8)
    text = compressed(pixels)
    assert checked_outline(RunLengths((height, width), text), height, width) == {
        "size": [height, width],
        "counts": text,
    }
    for size in ((height + 1, width), (height, width + 1), (width, height)):
        if size != (height, width):
            with pytest.raises(ValueError, match="has run lengths for"):
                checked_outline(RunLengths(size, text), height, width)
    with pytest.raises(ValueError, match=f"for {height * width} of the {height * width + height} pixels"):
        checked_outline(RunLengths((height, width + 1), text), height, width + 1)


def theirs(truth: Entry, found: list[Entry], what: str) -> list[float]:
    """Pycocotools' six averages, in %."""
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO()
        annotated.dataset = copy.deepcopy(truth)
        annotated.createIndex()
        results = [{name: part for name, part in each.items() if what == "bbox" or name != "bbox"} for each in found]
        evaluator = COCOeval(annotated, annotated.loadRes(results), what)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return (100 * evaluator.stats[:6]).tolist()


@pytest.mark.parametrize("what", ["bbox", "segm"])
def test_figures_of_odd_files_are_those_of_pycocotools(one_image: Write, what: str):
    """Everything odd that pycocotools takes, at once, as it stands in the file."""
    run_lengths: Entry = {"size": [30, 40], "counts": compressed(rectangle())}
    plain = {"iscrowd": 0, "area": 40.0, "segmentation": TRIANGLE}
    odd: list[Entry] = [
        {"bbox": [2, 3, 10, 8], "segmentation": run_lengths},
        {"bbox": [2, 3, 10, 8], "segmentation": run_lengths, "iscrowd": True, "category_id": 3},
        {"bbox": [20, 3, 10, 8], "segmentation": [[20, 3, 30, 3, 30, 11, 20, 11], [1, 2, 3, 4]], "area": 80},
        {"bbox": [-5, -5, 50, 12], "segmentation": [[-5, -5, 45, -5, 45, 7, -5, 7]], "area": 600, "image_id": 5.0},
        {"bbox": [50, 5, 10, 10], "category_id": 3},
        {"bbox": [11, 12, -10, -10], "category_id": 3},
        {"bbox": [0, 0, 1e12, 1e12], "area": 5},
        {"bbox": [5, 5, 1e-6, 3], "area": 1e-6, "ignore": 1},
        {"bbox": [8, 8, 3, 3], "area": 0, "category_id": 3},
        {"bbox": [8, 18, 9, 9], "segmentation": {"size": [30, 40], "counts": [1200]}},
    ]
    file, folder = one_image(*[plain | {"id": i} | each for i, each in enumerate(odd, start=1)])
    boxes = [[2, 3, 10, 8], [20, 3, 10, 8], [-5, -5, 50, 12], [8, 8, 3, 3], [1, 1, 2, 2]]
    found: list[Entry] = []
    for k, (left, top, width, height) in enumerate(boxes):
        pixels = np.zeros((30, 40), np.uint8)
        pixels[max(top, 0) : top + height, max(left, 0) : left + width] = 1
        outline = {"size": [30, 40], "counts": compressed(pixels)}
        guess = {"image_id": 5, "bbox": boxes[k], "score": 0.9 - 0.1 * k, "segmentation": outline}
        found += [guess | {"category_id": category} for category in (7, 3)]
    ours = average_precision(read_annotations(file, folder, masks=True).truth, found, what).figures.values()
    expected = theirs(json.loads(file.read_text()), found, what)
    assert [-100 if value is None else value for value in ours] == pytest.approx(expected, abs=1e-9)
    assert 0 < expected[0] < 100


# What is refused, and how


def refusal(place: tuple[Path, Path], *, masks: bool = True) -> str:
    """The one sentence."""
    with pytest.raises(UsageError) as caught:
        read_annotations(*place, masks=masks)
    told = str(caught.value)
    assert str(place[0]) in told
    assert len(told.splitlines()) == 1
    assert len(told) < 600
    return told


@pytest.mark.parametrize("value", [2, 2.0, -1, 0.5, "2", "yes", "", [], {}, NAN])
def test_crowd_flags_that_say_nothing(one_image: Write, value: Any):
    told = refusal(one_image({"id": 17, "iscrowd": value}), masks=False)
    assert f"annotation 17 (image 5) has iscrowd {value!r}; it is 0 or 1" in told


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY, "12", "", [], {}, True, 10**400])
def test_areas_that_are_no_numbers(one_image: Write, value: Any):
    assert "annotation 17 (image 5) has area" in refusal(one_image({"id": 17, "area": value}), masks=False)


@pytest.mark.parametrize(
    "box",
    [
        *(None, [], [1, 2, 3], [1, 2, 3, 4, 5], "1,2,3,4", {"x": 1}, 7, [[1, 2, 3, 4]], [[1, 2], [3, 4]]),
        *([1, 2, value, 4] for value in (NAN, INFINITY, -INFINITY, None, "3", True, [3], {}, 10**400, 1e200)),
    ],
)
def test_boxes_that_are_none(one_image: Write, box: Any):
    told = refusal(one_image({"id": 17, "bbox": box}), masks=False)
    assert "annotation 17 (image 5) has bbox" in told
    assert told.endswith("it is [left, top, width, height] in pixels")


ODD_IDS = [[5], {"a": 5}, "5", "\ud800", 5.5, True, NAN, INFINITY, 2**63, -(2**63) - 1, 10**30, None]


@pytest.mark.parametrize("value", ODD_IDS)
def test_ids_that_are_none(one_image: Write, value: Any):
    assert "annotation 17 (image" in refusal(one_image({"id": 17, "image_id": value}))
    assert "annotation 17 (image 5) " in refusal(one_image({"id": 17, "category_id": value}))
    for changes in ({"images": [image(id=value)]}, {"categories": [{"id": value, "name": "x"}]}):
        told = refusal(one_image(**changes))
        assert "has id" in told or (value == "\ud800" and "'\\ud800' holds text that is no Unicode" in told)


@pytest.mark.parametrize("value", [[5], {"a": 5}, True])
def test_ids_of_annotations_that_name_nothing(one_image: Write, value: Any):
    assert f"annotation number 2 in the list (image 5) has id {value!r}" in refusal(one_image({}, {"id": value}))


@pytest.mark.parametrize("name", [["a.png"], {"a": 1}, None, 3, True])
def test_file_names_that_are_no_text(one_image: Write, name: Any):
    assert f"image 5 has file_name {name!r}; it is the path" in refusal(one_image(images=[image(file_name=name)]))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "sub", "/", "/etc", "x" * 5000, "a\0.png", "\ud800.png", "a\n.png", "pipe"]
)
def test_file_names_of_no_file(one_image: Write, tmp_path: Path, name: str):
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert "(image 5), which is not in" in refusal(one_image(images=[image(file_name=name)]))


@pytest.mark.parametrize("side", [0, -3, 41, 30, 2**70, 40.5, "40", [40], {}, NAN, True])
def test_sizes_that_are_not_the_pictures(one_image: Write, side: Any):
    assert "image 5 " in refusal(one_image(images=[image(width=side)]), masks=False)


def test_pictures_that_are_damaged(one_image: Write, tmp_path: Path):
    place = one_image(images=[image(file_name="b.png")])
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:20])
    assert "b.png cannot be decoded as an image" in refusal(place)
    (tmp_path / "b.png").write_bytes(b"")
    assert "image 5: " in refusal(place)


@pytest.mark.parametrize(
    ("outline", "reason"),
    [
        (None, "has no segmentation; train faster_rcnn"),
        ("x", "has segmentation 'x'; it is polygons"),
        (3, "has segmentation 3"),
        ([2, 3, 12, 3, 12, 11], "has segmentation [2, 3"),
        ([[2, 3, 12, 3, 12, "11"]], "has segmentation"),
        ([[2, 3, 12, 3, 12, None]], "has segmentation"),
        ([[2, 3, 12, 3, 12, NAN]], "has segmentation"),
        ([[2, 3, 12, 3, 12, INFINITY]], "has segmentation"),
        ([[2, 3, 12, 3, 12, 1e12]], "has segmentation"),
        ([[2, 3, 12, 3, 12, 10**30]], "has segmentation"),
        ([[2, 3, 12, 3, 12, -1e6]], "has a point at -1e+06, far outside its picture of 40×30 pixels"),
        ([[2, 3, 12, 3, 12, 11, 2]], "has a polygon of 7 numbers"),
        ([[[2, 3], [12, 3], [12, 11]]], "has segmentation"),
        ([[2, 3], [12, 3], [12, 11]], "has each point in a list of its own"),
        ([None], "has segmentation"),
        ([{"x": 1}], "has segmentation"),
        ({}, "has segmentation {}"),
        ({"counts": [1200]}, "has segmentation"),
        ({"size": [30, 40]}, "has segmentation"),
        ({"size": [30], "counts": [1200]}, "has segmentation"),
        ({"size": None, "counts": [1200]}, "has segmentation"),
        ({"size": [30, 40], "counts": None}, "has segmentation"),
        ({"size": [30, 40], "counts": [[1200]]}, "has segmentation"),
        ({"size": [30, 40], "counts": ["1200"]}, "has segmentation"),
        ({"size": [30, 40], "counts": [1300, -100]}, "has segmentation"),
        ({"size": [30, 40], "counts": [2**40]}, "has segmentation"),
        ({"size": [30, 40], "counts": [600.5, 599.5]}, "has segmentation"),
        ({"size": [40, 30], "counts": [1200]}, "has run lengths for 30×40 pixels"),
        ({"size": [3, 4], "counts": [12]}, "has run lengths for 4×3 pixels"),
        ({"size": [-30, -40], "counts": [1200]}, "has run lengths for -40×-30 pixels"),
        ({"size": [30, 40], "counts": [600]}, "has run lengths for 600 of the 1200 pixels"),
        ({"size": [30, 40], "counts": [600, 601]}, "has run lengths for 1201 of the 1200 pixels"),
        ({"size": [30, 40], "counts": []}, "has run lengths for 0 of the 1200 pixels"),
        ({"size": [30, 40], "counts": [2**32 - 1] * 3}, "has run lengths for 12884901885 of"),
        ({"size": [30, 40], "counts": compressed(rectangle(20, 40))}, "has run lengths for 800 of the 1200 pixels"),
        ({"size": [30, 40], "counts": ""}, "has compressed run lengths that are damaged"),
        ({"size": [30, 40], "counts": compressed(rectangle())[:-1]}, "has "),
        ({"size": [30, 40], "counts": "o" * 50 + "1"}, "has compressed run lengths that are damaged"),
        ({"size": [30, 40], "counts": "ooooo"}, "has compressed run lengths that are damaged"),
        ({"size": [30, 40], "counts": "größe"}, "has compressed run lengths that are damaged"),
        ({"size": [30, 40], "counts": "\ud800\0"}, "has compressed run lengths that are damaged"),
        ({"size": [30, 40], "counts": "N"}, "has run lengths below zero"),
    ],
)
@pytest.mark.parametrize("crowd", [0, 1])
def test_outlines_that_cannot_be_drawn(one_image: Write, outline: Any, reason: str, crowd: int):
    """Nobody draws them, so that no evaluation loops over them for ever."""
    told = refusal(one_image({"id": 17, "segmentation": outline, "iscrowd": crowd}))
    assert f"annotation 17 (image 5) {reason}" in told


@pytest.mark.parametrize("outline", [[], [[]], [[1, 2, 3, 4]]])
def test_crowds_without_outline(one_image: Write, outline: Any):
    """An object without one is not learned from; a crowd without one could not be ignored where it is."""
    place = one_image({"id": 17, "segmentation": outline, "iscrowd": 1})
    assert "annotation 17 (image 5) is a crowd without an outline" in refusal(place)
    assert len(read_annotations(*place, masks=False).truth["annotations"]) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "are no JSON: Expecting value"),
        (b"\xef\xbb\xbf", "are no JSON"),
        (b'{"images": [{"id"', "are no JSON"),
        (b'{"images": "\xff\xfe"}', "are no JSON: 'utf-8' codec"),
        (b"\x89PNG\r\n\x1a\n\0\0", "are no JSON"),
        (b"[1, 2]", "they have no list 'images'"),
        (b"null", "they have no list 'images'"),
        (b"NaN", "they have no list 'images'"),
        (b'"images"', "they have no list 'images'"),
        (b'{"images": [], "annotations": null, "categories": []}', "they have no list 'annotations'"),
        (b'{"images": {}, "annotations": [], "categories": []}', "they have no list 'images'"),
        (b'{"images": [{}], "annotations": [[]], "categories": [{}]}', "entry 1 of 'annotations' is no object"),
        (b'{"images": [{}], "annotations": [], "categories": [{}]}', "image number 1 in the list has no id"),
        (b'{"images": [' + b"9" * 5000 + b"]}", "are no JSON: Exceeds the limit (4300 digits)"),
        (b"[" * 100_000, "lists within lists go too deep"),
        (b'{"images": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, "lists within lists go too deep"),
    ],
)
def test_files_that_hold_no_annotations(tmp_path: Path, content: bytes, reason: str):
    file = tmp_path / "instances.json"
    file.write_bytes(content)
    assert reason in refusal((file, tmp_path))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"categories": []}, "have no images or no categories"),
        ({"categories": [{"name": "x"}]}, "category number 1 in the list has no id"),
        ({"categories": [{"id": 7, "name": ["x"]}]}, "category 7 has name ['x']; it is text"),
        ({"categories": [{"id": 7}, {"id": 7.0}]}, "2 entries have the category id 7"),
        ({"images": [image(), image(file_name="b.png")]}, "2 entries have the image id 5"),
        ({"images": [{"id": 5}]}, "image 5 has no file_name; it is the path of an image"),
        ({"annotations": [{"id": 17, "category_id": 7, "bbox": [1, 2, 3, 4]}]}, "annotation 17 has no image_id"),
        ({"annotations": [{"id": 17, "image_id": 5, "bbox": [1, 2, 3, 4]}]}, "17 (image 5) has no category_id"),
        ({"annotations": [{"id": 17, "image_id": 5, "category_id": 7}]}, "annotation 17 (image 5) has no bbox"),
    ],
)
def test_entries_that_lack_something(one_image: Write, changes: Entry, reason: str):
    assert reason in refusal(one_image(**changes))


@pytest.mark.parametrize("detector", ["coco_faster", "coco_mask"])
def test_a_fault_stops_a_run_before_it_writes(crosslayer, coco_set: Path, tmp_path: Path, detector: str):
    for split in ("train2017", "val2017"):
        (tmp_path / split).symlink_to(coco_set / split)
    (tmp_path / "annotations").mkdir()
    contents = {}
    for name in ("instances_train2017.json", "instances_val2017.json"):
        contents[name] = (coco_set / "annotations" / name).read_text()
        (tmp_path / "annotations" / name).write_text(contents[name])
    faults: list[tuple[str, str, str, Any]] = [
        ("instances_val2017.json", "annotations", "iscrowd", "[bold]maybe"),
        ("instances_train2017.json", "annotations", "bbox", [1, 2, NAN, 4]),
        ("instances_train2017.json", "images", "height", 7),
        ("instances_val2017.json", "images", "file_name", {"a": ":dog:"}),
    ]
    for name, part, field, value in faults:
        content = json.loads(contents[name])
        content[part][2][field] = value
        own = content[part][2]["id"]
        (tmp_path / "annotations" / name).write_text(json.dumps(content))
        words = ("--frozen-stages", -1, "--no-freeze-norm", "--device", "cpu", "--workers", 0)
        code, out, err = crosslayer("train", detector, "--data", tmp_path, "--output", tmp_path / "run", *words)
        (tmp_path / "annotations" / name).write_text(contents[name])
        assert (code, out) == (2, "")
        assert len(err.splitlines()) <= 3
        assert f"{name}: {part.removesuffix('s')} {own} " in err.replace("\n", " ")
        assert not (tmp_path / "run").exists()


# Whatever else

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 5, 7, -1, 30, 40, 1200, 10**400]),
    st.floats(allow_nan=True),
    st.text(max_size=4),
    st.sampled_from(["a.png", "..", "0", "1", "\ud800", "../a.png", compressed(rectangle())]),
    st.lists(st.one_of(st.integers(-50, 90), st.floats(), st.none()), max_size=9),
    st.lists(st.lists(st.floats(-100, 100), max_size=9), max_size=3),
    st.fixed_dictionaries(
        {
            "size": st.sampled_from([[30, 40], [40, 30], None, []]),
            "counts": st.one_of(
                st.lists(st.integers(0, 1200), max_size=4), st.text("PQ1N0oO2;", max_size=9), st.floats()
            ),
        }
    ),
)
"""What may stand where something else should."""


def places_in(content: Any) -> list[tuple[Any, ...]]:
    """The ways to every value of a JSON tree."""
    keys = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [way for key, value in keys for way in [(key,), *((key, *rest) for rest in places_in(value))]]


def valid() -> Entry:
    run_lengths = {"size": [30, 40], "counts": [63, 8, *[22, 8] * 9, 859]}
    shared = {"image_id": 5, "category_id": 7, "area": 80.0, "bbox": [2, 3, 10, 8]}
    return {
        "images": [image(), image(id=6)],
        "annotations": [
            shared | {"id": 1, "iscrowd": 0, "segmentation": TRIANGLE},
            shared | {"id": 2, "iscrowd": 1, "segmentation": run_lengths},
            shared | {"id": 3, "image_id": 6, "segmentation": run_lengths | {"counts": compressed(rectangle())}},
        ],
        "categories": [{"id": 7, "name": "square"}, {"id": 3, "name": "bar"}],
    }


def check_read_or_refused(file: Path, folder: Path) -> None:
    """A refusal is one sentence about the file; what is read can be drawn, learned from and evaluated."""
    try:
        read = read_annotations(file, folder, masks=True)
    except UsageError as error:
        told = str(error)
    else:
        check_whole(read)
        return
    assert str(file) in told
    assert len(told.splitlines()) == 1


def check_whole(read: Annotations) -> None:
    assert len(read.labels) == len(read.boxes) == int(read.starts[-1])
    for i in range(len(read)):
        scene = SceneDataset(read, Augmentation(flip=True)).scene((0, 0), i)
        assert (scene.target["boxes"][:, 2:] > scene.target["boxes"][:, :2]).all()
        assert scene.image.shape[1:] == scene.target["masks"].shape[1:]
    outline = {"size": [30, 40], "counts": compressed(rectangle())}
    guess = {"bbox": [2.0, 3.0, 10.0, 8.0], "score": 0.5, "segmentation": outline}
    found = [guess | {"image_id": each, "category_id": read.categories.ids[0]} for each in read.ids]
    for what in ("bbox", "segm"):
        for value in average_precision(read.truth, found, what).figures.values():
            assert value is None or 0 <= value <= 100 + 1e-9


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_change_of_a_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    folder = tmp_path_factory.getbasetemp() / "changed"
    folder.mkdir(exist_ok=True)
    Image.new("L", (40, 30), 128).save(folder / "a.png")
    content: Any = copy.deepcopy(valid())
    for _ in range(data.draw(st.integers(1, 2), label="changes")):
        *way, last = data.draw(st.sampled_from(places_in(content)), label="where")
        inner = content
        for key in way:
            inner = inner[key]
        if data.draw(st.booleans(), label="whether it is left out"):
            del inner[last]
        else:
            inner[last] = data.draw(VALUES, label="what stands there instead")
    file = folder / "instances.json"
    file.write_text(json.dumps(content))
    check_read_or_refused(file, folder)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_damage_of_a_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    Image.new("L", (40, 30), 128).save(folder / "a.png")
    raw = bytearray(json.dumps(valid()).encode())
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=3)):
        raw[place] = data.draw(st.integers(0, 255))
    file = folder / "instances.json"
    file.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    check_read_or_refused(file, folder)


# Slivers, strips and pictures


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([(40, 30), (1, 1), (900, 2), (2, 900), (1200, 900)]),
    st.sampled_from([0.0, 1e-7, 0.3, 0.5, 0.9999999, 1.0]),
    st.sampled_from([1e-9, 1e-6, 1e-4, 0.009, 0.011, 0.1, 3.0]),
    st.sampled_from([(64, 96), (800, 1333)]),
)
def test_slivers_never_close(
    tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int], where: float, thin: float, sides: tuple[int, int]
):
    """However thin and wherever it is, a box that is learned from is open when it is mirrored and when it is scaled."""
    folder = tmp_path_factory.getbasetemp() / "slivers"
    folder.mkdir(exist_ok=True)
    name = f"{size[0]}.png"
    if not (folder / name).exists():
        Image.new("L", size).save(folder / name)
    width, height = size
    boxes = [
        [where * width, 0, thin, height],
        [0, where * height, width, thin],
        [where * width - thin, 0, thin, height],
    ]
    content = {
        "images": [{"id": 1, "file_name": name, "width": width, "height": height}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": box} for box in boxes],
        "categories": [{"id": 1, "name": "x"}],
    }
    (folder / "slivers.json").write_text(json.dumps(content))
    read = read_annotations(folder / "slivers.json", folder, masks=False)
    if thin == 3.0 and where == 0.5:
        assert len(read.labels) >= 2
    if thin <= 0.009:
        assert len(read.labels) == 0
    boxes = read.boxes
    mirrored = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    transform = scaling(*sides)
    for each in (boxes, mirrored):
        _, target = transform.resize(torch.zeros(3, height, width), {"boxes": each})
        scaled = target["boxes"]
        assert ((scaled[:, 2:] - scaled[:, :2]) > 0).all()


@functools.cache
def scaling(least: int, most: int) -> Any:
    """What a detector does with images and objects before it looks at them, and with what it finds."""
    model = create_detector("faster_rcnn", "resnet18", pyramid_channels=1, min_size=least, max_size=most)
    return model.transform.eval()


@pytest.mark.parametrize("detector", ["faster_rcnn", "mask_rcnn"])
@pytest.mark.parametrize("jitter", [None, 64])
def test_strips_train_and_are_looked_at(tmp_path: Path, detector: str, jitter: int | None):
    """Pictures whose shorter side would be scaled to less than a pixel."""
    sizes = [(900, 2), (2, 900), (1, 1), (5000, 1)]
    objects = [{"image_id": i, "category_id": 1, "bbox": [0, 0, *size]} for i, size in enumerate(sizes)]
    for entry, (width, height) in zip(objects, sizes, strict=True):
        Image.new("RGB", (width, height), (90, 40, 10)).save(tmp_path / f"{entry['image_id']}.png")
        entry["segmentation"] = [[0, 0, width, 0, width, height, 0, height]]
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(len(sizes))]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "set.json").write_text(json.dumps(content))
    read = read_annotations(tmp_path / "set.json", tmp_path, masks=detector == "mask_rcnn")
    assert read.sizes.tolist() == [list(size) for size in sizes]
    torch.manual_seed(0)
    model = create_detector(
        detector,
        "resnet18",
        "dla_l",
        1,
        pyramid_channels=8,
        min_size=64,
        max_size=96,
        resize_in_training=jitter is None,
        frozen_stages=-1,
    )
    dataset = SceneDataset(read, Augmentation(jitter=jitter))
    scenes = [dataset.scene((0, 0), i) for i in range(len(read))]
    losses = model.train()([scene.image / 255 for scene in scenes], [scene.target for scene in scenes])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    model.eval()
    model.roi_heads.score_thresh = 0.0
    for path, (width, height) in zip(read.paths, sizes, strict=True):
        with torch.no_grad():
            (found,) = model([load_photo(path) / 255])
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= torch.tensor([width, height, width, height])).all()
        if detector == "mask_rcnn":
            assert found["masks"].shape[2:] == (height, width)


def test_a_strip_is_scaled_with_what_is_in_it():
    """2×900 pixels become 1×96, and back again: boxes and masks stay where they are."""
    transform = scaling(64, 96)
    masks = torch.zeros(1, 2, 900, dtype=torch.uint8)
    masks[..., 450:] = 1
    target = {"boxes": torch.tensor([[450.0, 0, 900, 2]]), "masks": masks}
    image, target = transform.resize(torch.ones(3, 2, 900), target)
    assert image.shape == (3, 1, 96)
    assert target["boxes"].tolist() == [[48, 0, 96, 1]]
    assert target["masks"].flatten().tolist() == [0] * 48 + [1] * 48
    (found,) = transform.postprocess([{"boxes": target["boxes"]}], [(1, 96)], [(2, 900)])
    assert found["boxes"].tolist() == [[450, 0, 900, 2]]


def test_pictures_of_16_bits_are_scaled(one_image: Write, tmp_path: Path):
    """Not cut at 255; what is of unknown range is refused by name."""
    place = one_image({})
    Image.fromarray(np.full((30, 40), 257 * 100, np.uint16)).save(tmp_path / "a.png")
    assert (SceneDataset(read_annotations(*place, masks=False), None).scene((0, 0), 0).image == 100).all()
    assert (load_photo(str(tmp_path / "a.png")) == 100).all()
    content = json.loads(place[0].read_text()) | {"images": [image(file_name="b.tif")]}
    place[0].write_text(json.dumps(content))
    Image.fromarray(np.ones((30, 40), np.float32)).save(tmp_path / "b.tif")
    assert "b.tif cannot be decoded as an image: its pixels are fractions of 32 bits" in refusal(place)
    with pytest.raises(FailedError, match=r"b\.tif cannot be decoded as an image: its pixels are fractions"):
        load_photo(str(tmp_path / "b.tif"))


def exif(orientation: int, *, damaged: bool) -> bytes:
    """A camera's notes; damaged ones have a resolution of -1/0."""
    entries = [(0x0112, 3, orientation.to_bytes(4, "little"))]
    if damaged:
        entries.append((0x011A, 5, (50).to_bytes(4, "little")))
    body = b"II*\0\x08\0\0\0" + len(entries).to_bytes(2, "little")
    for tag, kind, value in entries:
        body += tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little") + value
    return b"Exif\0\0" + (body + bytes(4)).ljust(50, b"\0") + b"\xff\xff\xff\xff" + bytes(4)


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_pictures_held_on_their_side(one_image: Write, tmp_path: Path, kind: str, damaged: bool):
    """As stored or upright, whichever has the annotations' size; notes that are damaged elsewhere stop nothing."""
    name = f"turned.{kind}"
    picture = Image.new("RGB", (40, 30), (250, 250, 250))
    picture.paste((0, 0, 0), (0, 0, 20, 30))
    if kind == "tif":
        notes = Image.Exif()
        notes[0x0112] = 6
        picture.save(tmp_path / name, exif=notes)
    else:
        picture.save(tmp_path / name, exif=exif(6, damaged=damaged), quality=95)
    dark = {}
    for size in ((40, 30), (30, 40)):
        place = one_image({}, images=[image(file_name=name, width=size[0], height=size[1])])
        pixels = SceneDataset(read_annotations(*place, masks=False), None).scene((0, 0), 0).image
        assert pixels.shape == (3, size[1], size[0])
        dark[size] = (pixels[0, 5, 5] < 50, pixels[0, 5, -5] < 50, pixels[0, -5, 5] < 50)
    assert dark[40, 30] == (True, False, True)
    assert dark[30, 40] == (True, True, False)
    assert load_photo(str(tmp_path / name)).shape == (3, 40, 30)
    assert "is 30×30 pixels large" in refusal(one_image(images=[image(file_name=name, width=30, height=30)]))


def test_photos_that_are_none(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    with pytest.raises(FailedError, match=r"a\.jpg cannot be decoded as an image"):
        load_photo(str(tmp_path / "a.jpg"))
    with pytest.raises(UsageError, match=r"there is no image file .*b\.jpg"):
        load_photo(str(tmp_path / "b.jpg"))
