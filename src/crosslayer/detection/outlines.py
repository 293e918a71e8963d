"""Outlines of objects as a file has them, polygons or run lengths: checked against their picture once, here.

What is passed on is what COCO's tools can draw: of other run lengths, some are drawn wrong and some never end.
"""

from typing import Annotated, Any

import msgspec
import numpy as np

_Coordinate = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Polygons = list[list[_Coordinate]]
"""[x, y, x, y, …] in pixels, together one outline."""
_FEWEST = 6
"""Numbers of a triangle."""
_LONGEST = 7
"""Characters of a number in compressed run lengths: 35 bits; the largest picture needs 28."""


class RunLengths(msgspec.Struct):
    """Pixels outside and inside an object in turn, column by column; as text, COCO's compressed form."""

    size: tuple[int, int]
    """Height and width of the picture."""
    counts: str | list[_Count]


def checked_outline(outline: Polygons | RunLengths, height: int, width: int) -> list[list[float]] | dict[str, Any]:
    """An outline as COCO's tools take it. Polygons of fewer than three points, which hold no pixel, are left out.

    Raises:
        ValueError: it is not one of a picture of this size; the text says why, beginning with a verb.
    """
    if isinstance(outline, RunLengths):
        return _checked_run_lengths(outline, height, width)
    if outline and all(len(polygon) == 2 for polygon in outline):
        raise ValueError("has each point in a list of its own; a polygon is one list [x, y, x, y, …]")
    far = 2 * max(height, width)  # what is drawn takes memory by its length, within the picture or not
    for polygon in outline:
        if len(polygon) % 2:
            raise ValueError(f"has a polygon of {len(polygon)} numbers; it takes two for each point")
        if polygon and (min(polygon) < -far or max(polygon) > far):
            most = max(polygon, key=abs)
            raise ValueError(f"has a point at {most:g}, far outside its picture of {width}×{height} pixels")
    return [polygon for polygon in outline if len(polygon) >= _FEWEST]


def _checked_run_lengths(rle: RunLengths, height: int, width: int) -> dict[str, Any]:
    if rle.size != (height, width):
        rows, columns = rle.size
        raise ValueError(
            f"has run lengths for {columns}×{rows} pixels (size is [height, width]), its picture has {width}×{height}"
        )
    counts = np.array(rle.counts, dtype=np.int64) if isinstance(rle.counts, list) else _decompressed(rle.counts)
    if counts.size and counts.min() < 0:
        raise ValueError("has run lengths below zero")
    if (covered := counts.sum()) != height * width:
        raise ValueError(f"has run lengths for {covered} of the {height * width} pixels of its picture")
    return {"size": [height, width], "counts": rle.counts}


def _decompressed(text: str) -> np.ndarray:
    """From COCO's text: numbers in base 32, lowest digits first; from the fourth on, less the last but one."""
    digits = np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8).astype(np.int64) - 48
    if not digits.size or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise ValueError("has compressed run lengths that are damaged")
    ends = np.flatnonzero(digits < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        raise ValueError("has compressed run lengths that are damaged")
    places = np.arange(digits.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((digits & 31) << (5 * places), starts)
    numbers -= np.where(digits[ends] & 16, 1 << (5 * lengths), 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers
