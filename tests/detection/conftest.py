"""A small set in COCO's format, drawn here, with all that is unusual in real ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CATEGORIES = [{"id": 7, "name": "square"}, {"id": 3, "name": "bar"}, {"id": 90, "name": "rare"}]
"""Not in order, with gaps."""
COLOURS = {7: (220, 40, 40), 3: (40, 60, 220)}


def polygon(box: list[float]) -> list[list[float]]:
    left, top, width, height = box
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def draw(path: Path, size: tuple[int, int], objects: list[tuple[int, list[int]]], seed: int) -> None:
    width, height = size
    pixels = np.random.RandomState(seed).randint(90, 160, (height, width, 3)).astype(np.uint8)
    for category, (left, top, w, h) in objects:
        pixels[top : top + h, left : left + w] = COLOURS[category]
    Image.fromarray(pixels).save(path)


def scenes(count: int, seed: int) -> list[tuple[tuple[int, int], list[tuple[int, list[int]]]]]:
    """Pictures with a square and a bar each, every third one tall."""
    random = np.random.RandomState(seed)
    made = []
    for i in range(count):
        size = (64, 80) if i % 3 == 0 else (80, 64)
        square = [int(random.randint(2, 14)), int(random.randint(2, 14)), 20, 20]
        bar = [int(random.randint(2, 20)), int(random.randint(40, 50)), 36, 9]
        made.append((size, [(7, square), (3, bar)]))
    return made


def coco_entries(made: list, folder: Path, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Draws the pictures and describes them."""
    images, annotations = [], []
    for i, (size, objects) in enumerate(made):
        name = f"{i:03d}.png"
        draw(folder / name, size, objects, seed + i)
        images.append({"id": 100 + 7 * i, "file_name": name, "width": size[0], "height": size[1]})
        for category, box in objects:
            described = {"image_id": images[-1]["id"], "category_id": category, "bbox": box}
            annotations.append(described | {"segmentation": polygon(box), "area": box[2] * box[3], "iscrowd": 0})
    for i, annotation in enumerate(annotations):
        annotation["id"] = i + 1
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


@pytest.fixture(scope="session")
def coco_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures to train on, four to evaluate, in the official layout."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    for split, count, seed in (("train2017", 10, 0), ("val2017", 4, 50)):
        (root / split).mkdir()
        content = coco_entries(scenes(count, seed), root / split, seed)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def one_image(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes a file of annotations about one grey 40×30 picture; returns it and the picture's folder."""

    def write(*annotations: dict[str, Any], **changes: Any) -> tuple[Path, Path]:
        Image.new("L", (40, 30), 128).save(tmp_path / "a.png")
        lacking = {"image_id": 5, "category_id": 7, "bbox": [1, 2, 10, 10]}
        content = {
            "images": [{"id": 5, "file_name": "a.png", "width": 40, "height": 30}],
            "annotations": [lacking | annotation for annotation in annotations],
            "categories": CATEGORIES,
        }
        (tmp_path / "set.json").write_text(json.dumps(content | changes))
        return tmp_path / "set.json", tmp_path

    return write
