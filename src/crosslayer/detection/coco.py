"""Annotations in COCO's format: read, checked, and kept in few tensors, which worker processes share.

What is unusual is handled as COCO's own tools do. Boxes are cut at the image's edge; what has no area then, or is
thinner than a hundredth of a pixel, is left out of training. Crowds are left out of training and ignored in evaluation.
Ids of categories may have gaps: classes are counted through in the order of the ids.
"""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from crosslayer.console import plain
from crosslayer.data.decode import opened
from crosslayer.data.pictures import check_range, has_size
from crosslayer.data.split import FileSplit
from crosslayer.detection.entries import BoxEntry, CategoryEntry, ImageEntry, OutlineEntry, called, read_entries
from crosslayer.detection.outlines import checked_outline
from crosslayer.detection.texts import PackedTexts
from crosslayer.errors import FailedError, UsageError

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
    """A file of annotations and the folder of its images, whose sizes are compared.

    Args:
        file: JSON with `images`, `annotations` and `categories`.
        folder: what the images' `file_name`s are relative to.
        masks: whether segmentations are wanted.

    Raises:
        UsageError: no such file, no JSON, an entry that is not COCO's format, or an image that is absent, damaged or of
            another size; the sentence names it.
    """
    entries = read_entries(file, masks=masks)
    images = sorted(entries.images, key=lambda image: image.id)
    ids = [int(image.id) for image in images]
    _check_unique(file, "image id", ids)
    categories = _categories(file, entries.categories)
    _check_references(file, entries.objects, set(ids), set(categories.ids))
    paths = _image_paths(file, images, folder)
    sizes = _sizes(file, images, paths)
    places = {image_id: place for place, image_id in enumerate(ids)}
    complete = [
        _completed(file, i, entry, sizes[places[int(entry.image_id)]]) for i, entry in enumerate(entries.objects)
    ]
    complete.sort(key=lambda annotation: places[annotation["image_id"]])
    objects = [a for a in complete if not a["iscrowd"] and (not masks or a["segmentation"])]
    of = torch.tensor([places[a["image_id"]] for a in objects], dtype=torch.int64)
    size_of = torch.tensor(sizes)
    boxes = torch.tensor(
        [_clipped(a["bbox"], sizes[place]) for a, place in zip(objects, of.tolist(), strict=True)], dtype=torch.float32
    ).view(-1, 4)
    whole = (boxes[:, 2:] - boxes[:, :2] > _thinnest(size_of[of])).all(1)
    learned = list(itertools.compress(objects, whole.tolist()))
    classes = {category: place for place, category in enumerate(categories.ids, start=1)}
    counts = torch.bincount(of[whole], minlength=len(ids))
    return Annotations(
        file=file,
        paths=paths,
        ids=ids,
        sizes=size_of,
        categories=categories,
        starts=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        boxes=boxes[whole],
        labels=torch.tensor([classes[a["category_id"]] for a in learned], dtype=torch.int64),
        shapes=PackedTexts([json.dumps(a["segmentation"]) for a in learned]) if masks else None,
        truth={
            "images": [
                {"id": image_id, "width": width, "height": height}
                for image_id, (width, height) in zip(ids, sizes, strict=True)
            ],
            "categories": [
                {"id": category, "name": name} for category, name in zip(categories.ids, categories.names, strict=True)
            ],
            "annotations": complete,
        },
    )


def _check_unique(file: Path, kind: str, ids: Sequence[int | str]) -> None:
    (most, count), *_ = Counter(ids).most_common(1)
    if count > 1:
        raise UsageError(f"annotations {plain(file)}: {count} entries have the {kind} {most}")


def _categories(file: Path, entries: list[CategoryEntry]) -> Categories:
    """In the order of their ids; where two share a name, it is told with the id."""
    ordered = sorted(entries, key=lambda entry: entry.id)
    ids = [int(entry.id) for entry in ordered]
    _check_unique(file, "category id", ids)
    told = [plain(category if entry.name is None else entry.name) for entry, category in zip(ordered, ids, strict=True)]
    shared = {name for name, count in Counter(told).items() if count > 1}
    names = [f"{name} ({category})" if name in shared else name for name, category in zip(told, ids, strict=True)]
    _check_unique(file, "category name", names)
    return Categories(tuple(ids), tuple(names))


def _check_references(file: Path, entries: Sequence[BoxEntry], images: set[int], categories: set[int]) -> None:
    for i, entry in enumerate(entries):
        for kind, own, known in (("image", entry.image_id, images), ("category", entry.category_id, categories)):
            if own not in known:
                raise UsageError(
                    f"annotations {plain(file)}: {called('annotation', i, entry.id)} has {kind}_id {own}, "
                    f"and no {kind} of that id is listed"
                )


def _completed(file: Path, i: int, entry: BoxEntry, size: tuple[int, int]) -> dict[str, Any]:
    """An annotation as COCO's tools take it, with an id of its own."""
    *_, width, height = entry.bbox
    annotation: dict[str, Any] = {
        "id": i + 1,
        "image_id": int(entry.image_id),
        "category_id": int(entry.category_id),
        "bbox": list(entry.bbox),
        "area": max(width, 0.0) * max(height, 0.0) if entry.area is None else entry.area,
        "iscrowd": int(entry.crowd),
    }
    if isinstance(entry, OutlineEntry):
        annotation["segmentation"] = _outline(file, i, entry, size)
    return annotation


def _outline(file: Path, i: int, entry: OutlineEntry, size: tuple[int, int]) -> Any:
    try:
        if entry.segmentation is None:
            raise ValueError("has no segmentation; train faster_rcnn, which needs none")
        outline = checked_outline(entry.segmentation, size[1], size[0])
        if entry.crowd and not outline:
            raise ValueError("is a crowd without an outline; leave it out, or train faster_rcnn")
    except ValueError as error:
        said = f"{called('annotation', i, entry.id)} (image {entry.image_id})"
        raise UsageError(f"annotations {plain(file)}: {said} {error}") from error
    return outline


def _clipped(box: Sequence[float], size: Sequence[int]) -> list[float]:
    """A box's corners within the image."""
    left, top, width, height = box
    corners = (left, top, left + width, top + height)
    return [min(max(corner, 0.0), side) for corner, side in zip(corners, [*size, *size], strict=True)]


def _thinnest(sizes: Int64[Tensor, "objects 2"]) -> Float32[Tensor, "objects 1"]:
    """Sides that a box must exceed, in pixels: rounding may close thinner ones when images are mirrored and scaled."""
    return (1e-6 * sizes.amax(1, keepdim=True).float()).clamp(min=0.01)


def _image_paths(file: Path, images: list[ImageEntry], folder: Path) -> list[str]:
    absent = [image for image in images if not _is_file(folder, image.file_name)]
    if absent:
        raise UsageError(
            f"annotations {plain(file)} list {plain(absent[0].file_name)[:200]} (image {absent[0].id}), "
            f"which is not in {plain(folder)} ({len(absent)} such of {len(images)})"
        )
    return [str(folder / image.file_name) for image in images]


def _is_file(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except OSError:  # a name too long
        return False


def _sizes(file: Path, images: list[ImageEntry], paths: list[str]) -> list[tuple[int, int]]:
    """Width and height of each image: as annotated, or its own, as it is stored, where the file does not tell them."""
    files = FileSplit(paths, np.zeros(len(paths)), fingerprint="")
    sizes = []
    for i, image in enumerate(images):
        try:
            with opened(files, i) as picture:
                check_range(picture)
                own = picture.size
                width = own[0] if image.width is None else int(image.width)
                height = own[1] if image.height is None else int(image.height)
                fits = has_size(picture, (width, height))
        except FailedError as error:
            raise UsageError(f"annotations {plain(file)}: image {image.id}: {error}") from error
        if not fits:
            raise UsageError(
                f"annotations {plain(file)}: image {image.id} is {width}×{height} pixels large, "
                f"and its picture {plain(paths[i])} {own[0]}×{own[1]}"
            )
        sizes.append((width, height))
    return sizes
