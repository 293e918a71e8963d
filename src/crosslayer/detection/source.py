"""What `--data` may name: the folders of a set in COCO's format."""

from pathlib import Path
from typing import NamedTuple

from crosslayer.detection.coco import Annotations, read_annotations
from crosslayer.errors import UsageError
from crosslayer.training.recipe import NO_DATA

TRAIN_NAMES = ("train2017", "train2014", "train", "training")
VAL_NAMES = ("val2017", "val2014", "val", "valid", "validation")
LAYOUTS = (
    "annotations/instances_train2017.json and instances_val2017.json with the images in train2017/ and val2017/ "
    "(or other names: train, val), or train/_annotations.coco.json and valid/_annotations.coco.json beside their images"
)


class Place(NamedTuple):
    """Where one split is."""

    annotations: Path
    images: Path


def train_annotations(data: str, *, masks: bool) -> Annotations:
    """The training split.

    Raises:
        UsageError: no such folder, or it holds no training split, a file that is not in COCO's format, or images that
            are absent or of another size.
    """
    return read_annotations(*_find_place(data, TRAIN_NAMES), masks=masks)


def val_annotations(data: str, *, masks: bool) -> Annotations:
    """The validation split.

    Raises:
        UsageError: no such folder, or it holds no validation split, or one without any object, a file that is not in
            COCO's format, or images that are absent or of another size.
    """
    annotations = read_annotations(*_find_place(data, VAL_NAMES), masks=masks)
    if not len(annotations.labels):
        raise UsageError(f"annotations {annotations.file} have no object that could be found")
    return annotations


def _find_place(data: str, names: tuple[str, ...]) -> Place:
    """The first split of these names that is there."""
    if data == NO_DATA:
        raise UsageError(f"detectors have no data of their own: give --data a folder with {LAYOUTS}")
    root = Path(data).expanduser()
    if not root.is_dir():
        state = "is a file, not a folder" if root.exists() else "does not exist"
        raise UsageError(f"--data {data}: it {state}; it takes a folder with {LAYOUTS}")
    for name in names:
        for file in (root / "annotations" / f"instances_{name}.json", root / name / "_annotations.coco.json"):
            if file.is_file():
                beside = root / name
                return Place(file, beside if beside.is_dir() else root / "images" / name)
    raise UsageError(
        f"--data {data}: found no annotations of {names[0]} or {names[2]}; it takes a folder with {LAYOUTS}"
    )
