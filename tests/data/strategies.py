"""Folders, shards and pictures as users bring them: odd, nested, linked, damaged."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from PIL import Image

MARKED = ["[edited]", "[/x]", ":dog:", "$5_$10", "two\nlines", "caf\udce9", "日本", "a b", "-x", "\x1b[2J", "%s", "{0}"]
JUNK = ["._x.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.pdf", "data.h5", "film.mpg", "drawing.eps", "README"]
LEFT_BEHIND = [".ipynb_checkpoints", "@eaDir", ".thumbnails", "__MACOSX", "$RECYCLE.BIN", "lost+found", ".git"]
WRITABLE = ["AVIF", "BLP", "BMP", "DDS", "DIB", "EPS", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "MPO", "MSP"]
WRITABLE += ["PALM", "PCX", "PDF", "PNG", "PPM", "QOI", "SGI", "SPIDER", "TGA", "TIFF", "WEBP", "XBM"]
MODES = ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "HSV", "LAB"]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """A picture of one grey."""
    return encoded(Image.new("RGB", size, (value, value, value)))


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


names = st.one_of(
    st.sampled_from(MARKED),
    st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=12).filter(
        lambda name: not name.startswith(".") and len(os.fsencode(name)) < 60
    ),
)


@st.composite
def trees(draw: st.DrawFn) -> Callable[[Path], int]:
    """A function that makes class folders somewhere, and returns how many pictures to train on they have."""
    classes = draw(st.lists(names, min_size=2, max_size=3, unique_by=lambda name: name.lower()))
    classes = [name for name in classes if name.lower() not in {"train", "training", "lost+found", "@eadir"}]
    junk = draw(st.lists(st.sampled_from(JUNK), max_size=4, unique=True))
    hidden = draw(st.lists(st.sampled_from(LEFT_BEHIND), max_size=3, unique=True))
    nested, looped, dangling, doubled = (draw(st.booleans()) for _ in range(4))

    def make(root: Path) -> int:
        train = root / "train" / "train" if doubled and len(classes) > 1 else root / "train"
        for number, name in enumerate(classes):
            put(train / name / f"{number}.png", grey(number))
            put(root / "val" / name / "0.png", grey(number))
            for kind in junk:
                put(train / name / kind, b"junk")
            for folder in hidden:
                put(train / name / folder / "x.png", grey(255))
                put(train / folder / "y.png", grey(255))
            if nested:
                put(train / name / "more" / "deep" / "1.png", grey(number))
            if looped:
                (train / name / "loop").symlink_to(train, target_is_directory=True)
            if dangling:
                (train / name / "gone.png").symlink_to(root / "nowhere.png")
        return len(classes) * (1 + nested)

    return make


def class_label(names: Any) -> dict[bytes, bytes]:
    """What `datasets` writes into a schema."""
    return {b"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}}).encode()}


def shard(path: Path, images: pa.Array, labels: pa.Array, metadata: dict[bytes, bytes] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "label": labels}).replace_schema_metadata(metadata), path)
    return path


def structs(values: list[int], bytes_type: pa.DataType | None = None, path_type: pa.DataType | None = None) -> pa.Array:
    """Pictures of one grey each, as `datasets` stores them."""
    kind = pa.struct([("bytes", bytes_type or pa.binary()), ("path", path_type or pa.string())])
    null = pa.types.is_null(path_type) if path_type else False
    rows = [{"bytes": grey(value), "path": None if null else f"{value}.png"} for value in values]
    return pa.array(rows, kind)


label_arrays = st.one_of(
    st.lists(st.integers(-2, 5), min_size=1, max_size=4).map(lambda values: pa.array(values, pa.int64())),
    st.lists(st.integers(0, 3), min_size=1, max_size=4).map(lambda values: pa.array(values, pa.int8())),
    st.lists(st.floats(0, 3), min_size=1, max_size=4).map(pa.array),
    st.lists(st.sampled_from(["cat", "dog"]), min_size=1, max_size=4).map(pa.array),
    st.lists(st.one_of(st.none(), st.integers(0, 2**63 - 1)), min_size=1, max_size=4).map(
        lambda values: pa.array(values, pa.int64())
    ),
    st.lists(st.booleans(), min_size=1, max_size=4).map(pa.array),
    st.integers(0, 3).map(pa.nulls),
)


def image_arrays(count: int) -> st.SearchStrategy[pa.Array]:
    """Image columns of every type, right and wrong, of so many rows."""
    blobs, paths = [grey(9)] * count, ["x.png"] * count
    path_only = pa.struct([("path", pa.string())])
    return st.sampled_from(
        [
            structs([9] * count),
            structs([9] * count, pa.large_binary(), pa.large_string()),
            structs([9] * count, path_type=pa.null()),
            pa.array(blobs, pa.binary()),
            pa.array(blobs, pa.large_binary()),
            pa.array(paths, pa.string()),
            pa.array([{"path": path} for path in paths], path_only),
            pa.array([{"bytes": None, "path": "x.png"}] * count, pa.struct([("bytes", pa.binary())])),
            pa.nulls(count),
            pa.array([[1, 2]] * count, pa.list_(pa.uint8())),
        ]
    )


metadata = st.one_of(
    st.none(),
    st.sampled_from([b"null", b"[]", b"no JSON", b"{}", b"\xff", b'{"info": null}', b'{"info": {"features": []}}']).map(
        lambda text: {b"huggingface": text}
    ),
    st.sampled_from([["cat", "dog"], ["dog", "cat"], ["cat"], None, [1, 2], "cat", ["cat", "cat"]]).map(class_label),
)


@st.composite
def damages(draw: st.DrawFn, content: bytes) -> bytes:
    """The content cut off, or with a few bits turned."""
    damaged = bytearray(content)
    if draw(st.booleans()):
        return bytes(damaged[: draw(st.integers(0, len(damaged)))])
    for _ in range(draw(st.integers(1, 4))):
        damaged[draw(st.integers(0, len(damaged) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(damaged)


def _pictures() -> dict[str, bytes]:
    """A small picture of every mode in every format that Pillow writes."""
    made = {}
    pixels = np.random.RandomState(0).randint(0, 256, (12, 16, 3)).astype(np.uint8)
    for kind in WRITABLE:
        for mode in MODES:
            image = (
                Image.new(mode, (16, 12)) if mode in ("I;16", "PA", "LAB") else Image.fromarray(pixels).convert(mode)
            )
            try:
                made[f"{kind} {mode}"] = encoded(image, kind)
            except (
                OSError,
                ValueError,
                KeyError,
                SystemError,
                DeprecationWarning,
            ):  # the format has no such mode, or this Pillow not it
                continue
    return made


PICTURES = _pictures()
