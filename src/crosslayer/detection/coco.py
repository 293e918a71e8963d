"""Annotations in COCO's format: read, checked, and kept in few tensors, which worker processes share.

What is unusual is handled as COCO's own tools do. Boxes are cut at the image's edge; without area, or outside, they are
left out of training. Crowds are left out of training and ignored in evaluation. Ids of categories may have gaps:
classes are counted through in the order of the ids.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from crosslayer.detection.texts import PackedTexts
from crosslayer.errors import FailedError

Boxes = Float32[Tensor, "objects 4"]
"""Left, top, right, bottom, in pixels."""


@dataclasses.dataclass(frozen=True)
class Categories:
    """Kinds of objects, in the order of their ids; class 1 is the first (0 is the background)."""

    ids: tuple[int, ...]
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The images of one file of annotations, and the objects to learn in each.

    Args:
        file: where they were read from.
        paths: of the images.
        ids: of the images, as the file has them.
        sizes: width and height of each image, in pixels.
        categories: kinds of objects.
        starts: where each image's objects begin among all, and the end.
        boxes: of all objects that are no crowd and have an area, image by image.
        labels: their classes, from 1.
        shapes: their segmentations as JSON, if masks are wanted.
        truth: all images, categories and annotations as COCO's tools take them.
    """

    file: Path
    paths: list[str]
    ids: list[int]
    sizes: Int64[Tensor, "images 2"]
    categories: Categories
    starts: Int64[Tensor, " _"]
    boxes: Boxes
    labels: Int64[Tensor, " objects"]
    shapes: PackedTexts | None
    truth: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    def objects(self, i: int) -> slice:
        """Which objects are image i's."""
        return slice(int(self.starts[i]), int(self.starts[i + 1]))

    def counts(self) -> Int64[Tensor, " images"]:
        """Objects of each image."""
        return self.starts.diff()

    def without_truth(self) -> "Annotations":
        """The same without what only evaluation needs: workers get a copy of everything."""
        return dataclasses.replace(self, truth={})


def read_annotations(file: Path, folder: Path, *, masks: bool) -> Annotations:
    """A file of annotations and the folder of its images.

    Args:
        file: JSON with `images`, `annotations` and `categories`.
        folder: what the images' `file_name`s are relative to.
        masks: whether segmentations are wanted.

    Raises:
        FailedError: no such file, no JSON, or an entry that is not COCO's format; the sentence names it.
    """
    content = parsed(file)
    images = sorted(content["images"], key=lambda image: number(file, "image", image, "id"))
    ids = [image["id"] for image in images]
    categories = categories_of(file, content["categories"])
    check_unique(file, "image", ids)
    sizes = {image["id"]: [positive(file, image, side) for side in ("width", "height")] for image in images}
    complete = [completed(file, i, annotation) for i, annotation in enumerate(content["annotations"])]
    check_references(file, complete, set(ids), set(categories.ids))
    places = {image_id: place for place, image_id in enumerate(ids)}
    complete.sort(key=lambda annotation: places[annotation["image_id"]])
    objects = [a for a in complete if not a["iscrowd"] and (not masks or has_shape(file, a))]
    boxes = torch.tensor([clipped(a["bbox"], sizes[a["image_id"]]) for a in objects], dtype=torch.float32).view(-1, 4)
    whole = (boxes[:, 2:] > boxes[:, :2]).all(1)
    learned = list(itertools.compress(objects, whole.tolist()))
    counts = torch.bincount(torch.tensor([places[a["image_id"]] for a in learned]).long(), minlength=len(ids))
    classes = {category: place for place, category in enumerate(categories.ids, start=1)}
    return Annotations(
        file=file,
        paths=image_paths(file, images, folder),
        ids=ids,
        sizes=torch.tensor(list(sizes.values())),
        categories=categories,
        starts=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        boxes=boxes[whole],
        labels=torch.tensor([classes[a["category_id"]] for a in learned], dtype=torch.int64),
        shapes=PackedTexts([json.dumps(a["segmentation"]) for a in learned]) if masks else None,
        truth={"images": images, "categories": content["categories"], "annotations": complete},
    )


def parsed(file: Path) -> dict[str, Any]:
    """The file's three lists."""
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise FailedError(f"annotations {file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FailedError(f"annotations {file} are no JSON: {error}") from error
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise FailedError(f"annotations {file} are not in COCO's format: they have no list {part!r}")
        if not all(isinstance(entry, dict) for entry in content[part]):
            raise FailedError(f"annotations {file} are not in COCO's format: an entry of {part!r} is no object")
    if not content["images"] or not content["categories"]:
        raise FailedError(f"annotations {file} have no images or no categories")
    return content


def number(file: Path, kind: str, entry: Mapping[str, Any], name: str) -> int:
    """A whole number of an entry."""
    value = entry.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FailedError(f"annotations {file}: {kind} {entry.get('id', entry)} has {name} {value!r}, no whole number")
    return value


def positive(file: Path, image: Mapping[str, Any], side: str) -> int:
    """An image's width or height."""
    value = number(file, "image", image, side)
    if value < 1:
        raise FailedError(f"annotations {file}: image {image['id']} has {side} {value}")
    return value


def check_unique(file: Path, kind: str, ids: Sequence[int]) -> None:
    """Raises FailedError for an id that two entries share."""
    seen: set[int] = set()
    for each in ids:
        if each in seen:
            raise FailedError(f"annotations {file}: two entries have the {kind} id {each}")
        seen.add(each)


def categories_of(file: Path, entries: list[dict[str, Any]]) -> Categories:
    """The kinds of objects, in the order of their ids."""
    ordered = sorted(entries, key=lambda entry: number(file, "category", entry, "id"))
    check_unique(file, "category", [entry["id"] for entry in ordered])
    return Categories(
        tuple(entry["id"] for entry in ordered), tuple(str(entry.get("name", entry["id"])) for entry in ordered)
    )


def completed(file: Path, i: int, annotation: dict[str, Any]) -> dict[str, Any]:
    """An annotation with an id of its own, and with a size and a crowd flag where the file has none."""
    box: Any = annotation.get("bbox")
    whole = isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)
    if not whole or not all(math.isfinite(side) for side in box):
        what = f"annotation {annotation.get('id', i)} of image {annotation.get('image_id')}"
        raise FailedError(f"annotations {file}: {what} has bbox {box!r}; it is [left, top, width, height] in pixels")
    lacking = {"iscrowd": 0, "area": box[2] * box[3]}
    return lacking | annotation | {"id": i + 1}


def check_references(file: Path, annotations: list[dict[str, Any]], images: set[int], categories: set[int]) -> None:
    """Raises FailedError for an annotation of an image or a category that is not listed."""
    for annotation in annotations:
        for name, known in (("image_id", images), ("category_id", categories)):
            if annotation.get(name) not in known:
                listed = name.removesuffix("_id")
                raise FailedError(
                    f"annotations {file}: annotation {annotation['id']} has {name} {annotation.get(name)!r}, "
                    f"and no {listed} of that id is listed"
                )


def has_shape(file: Path, annotation: dict[str, Any]) -> bool:
    """Whether an annotation's segmentation has an outline; a polygon of fewer than three points has none.

    Raises:
        FailedError: it has no segmentation at all.
    """
    shape = annotation.get("segmentation")
    if isinstance(shape, dict) and "counts" in shape and "size" in shape:
        return True
    if not isinstance(shape, list) or not all(isinstance(polygon, list) for polygon in shape):
        raise FailedError(
            f"annotations {file}: annotation {annotation['id']} of image {annotation.get('image_id')} has no "
            "segmentation; train faster_rcnn, which needs none"
        )
    return any(len(polygon) >= 6 for polygon in shape)


def clipped(box: Sequence[float], size: Sequence[int]) -> list[float]:
    """A box's corners within the image."""
    left, top, width, height = box
    corners = (left, top, left + width, top + height)
    return [min(max(corner, 0.0), side) for corner, side in zip(corners, [*size, *size], strict=True)]


def image_paths(file: Path, images: list[dict[str, Any]], folder: Path) -> list[str]:
    """Where the images are.

    Raises:
        FailedError: one that is listed is absent; the first is named.
    """
    present = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    names = [image.get("file_name") for image in images]
    absent = [
        name for name in names if name not in present and not (isinstance(name, str) and (folder / name).is_file())
    ]
    if absent:
        raise FailedError(
            f"annotations {file} list {absent[0]}, which is not in {folder} ({len(absent)} such of {len(images)})"
        )
    return [str(folder / str(name)) for name in names]
