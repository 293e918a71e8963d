"""What stands in a file of annotations in COCO's format: checked once, entry by entry, here."""

import json
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec

from crosslayer.console import plain
from crosslayer.detection.outlines import Polygons, RunLengths
from crosslayer.errors import UsageError, reason

FormT = TypeVar("FormT", bound=msgspec.Struct)

_WHOLE = 2.0**53
_Whole = (
    Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    | Annotated[float, msgspec.Meta(ge=-_WHOLE, le=_WHOLE, multiple_of=1)]
)
"""5 or 5.0: tables with gaps are written so."""
_Number = Annotated[float, msgspec.Meta(ge=-1e150, le=1e150)]
"""Neither infinite nor NaN, and the product of two is finite too."""


class ImageEntry(msgspec.Struct):
    """A picture, and its width and height in pixels if they are told."""

    id: _Whole
    file_name: str
    width: _Whole | None = None
    height: _Whole | None = None


class CategoryEntry(msgspec.Struct):
    """A kind of objects."""

    id: _Whole
    name: str | int | None = None


class BoxEntry(msgspec.Struct):
    """An object's box: left, top, width, height in pixels."""

    image_id: _Whole
    category_id: _Whole
    bbox: tuple[_Number, _Number, _Number, _Number]
    id: int | float | str | None = None
    area: _Number | None = None
    iscrowd: bool | Literal[0, 1, "0", "1"] | Annotated[float, msgspec.Meta(ge=0, le=1, multiple_of=1)] | None = None

    @property
    def crowd(self) -> bool:
        """Whether it is many objects in one."""
        return bool(int(self.iscrowd or 0))


class OutlineEntry(BoxEntry):
    """An object's box and outline."""

    segmentation: Polygons | RunLengths | None = None


_FORMS = {
    "id": "a whole number",
    "image_id": "the id of an image",
    "category_id": "the id of a category",
    "file_name": "the path of an image, as text",
    "width": "a whole number of pixels",
    "height": "a whole number of pixels",
    "name": "text",
    "bbox": "[left, top, width, height] in pixels",
    "area": "a number of pixels",
    "iscrowd": "0 or 1",
    "segmentation": "polygons [[x, y, x, y, …], …] or run lengths {size: [height, width], counts: …}",
}


class Entries(NamedTuple):
    """The three lists of a file, in its order."""

    images: list[ImageEntry]
    categories: list[CategoryEntry]
    objects: list[BoxEntry] | list[OutlineEntry]


def read_entries(file: Path, *, masks: bool) -> Entries:
    """A file's images, categories and annotations; their segmentations are looked at only if masks are wanted.

    Raises:
        UsageError: no such file, no JSON, or an entry of another form; the sentence names it by its id.
    """
    lists = _lists(file)
    objects = OutlineEntry if masks else BoxEntry
    return Entries(
        [_converted(file, "image", i, entry, ImageEntry) for i, entry in enumerate(lists["images"])],
        [_converted(file, "category", i, entry, CategoryEntry) for i, entry in enumerate(lists["categories"])],
        [_converted(file, "annotation", i, entry, objects) for i, entry in enumerate(lists["annotations"])],
    )


def called(kind: str, i: int, own: object) -> str:
    """An entry by its id, or by its place in the list where it has none."""
    if isinstance(own, int | float | str) and not isinstance(own, bool):
        return f"{kind} {own if isinstance(own, int | float) else reprlib.repr(own)}"
    return f"{kind} number {i + 1} in the list"


def _lists(file: Path) -> dict[str, list[dict[str, Any]]]:
    said = f"annotations {plain(file)}"
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{said} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{said} are no JSON: {plain(reason(error).split(';')[0])[:200]}") from error
    except RecursionError as error:
        raise UsageError(f"{said} are not in COCO's format: lists within lists go too deep") from error
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise UsageError(f"{said} are not in COCO's format: they have no list {part!r}")
        for i, entry in enumerate(content[part]):
            if not isinstance(entry, dict):
                raise UsageError(f"{said} are not in COCO's format: entry {i + 1} of {part!r} is no object")
    if not content["images"] or not content["categories"]:
        raise UsageError(f"{said} have no images or no categories")
    return content


def _converted(file: Path, kind: str, i: int, entry: Mapping[str, Any], form: type[FormT]) -> FormT:
    try:
        return msgspec.convert(entry, form)
    except msgspec.ValidationError as error:
        field = re.findall(r"`(?:\$\.)?(\w+)", str(error))[-1]  # ends: at `$.bbox[2]`, or: required field `bbox`
        has = f"has {field} {reprlib.repr(entry[field])}" if field in entry else f"has no {field}"
        fault = f"{has}; it is {_FORMS[field]}"
        raise _refusal(file, kind, i, entry, fault) from error
    except UnicodeEncodeError as error:  # half of a surrogate pair, where no text belongs
        raise _refusal(file, kind, i, entry, "holds text that is no Unicode") from error


def _refusal(file: Path, kind: str, i: int, entry: Mapping[str, Any], fault: str) -> UsageError:
    of = f" (image {reprlib.repr(entry['image_id'])})" if "image_id" in entry else ""
    return UsageError(plain(f"annotations {file}: {called(kind, i, entry.get('id'))}{of} {fault}"))
