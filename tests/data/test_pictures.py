"""Pictures of every kind: the right colours, the right side up, or one sentence that names the file."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, TiffImagePlugin

from crosslayer.data import decode as decoding
from crosslayer.data import pictures
from crosslayer.data.decode import View, decode
from crosslayer.data.pictures import open_picture, upright_rgb
from crosslayer.data.split import FileSplit
from crosslayer.errors import FailedError
from tests.data.strategies import encoded, grey, put


def rgb(content: bytes) -> np.ndarray:
    with open_picture(io.BytesIO(content)) as image:
        return np.asarray(upright_rgb(image))


def one_file(path: Path, content: bytes) -> FileSplit:
    return FileSplit([put(path, content)], np.zeros(1), "")


RAMP = np.arange(0, 65536, 257 * 5, dtype=np.uint16).reshape(4, 13)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_16_bits_become_8_by_257(kind: str):
    options = {"irreversible": False} if kind == "JPEG2000" else {}
    pixels = rgb(encoded(Image.fromarray(RAMP), kind, **options))
    assert (pixels == (RAMP // 257).astype(np.uint8)[:, :, None]).all()


def test_16_bits_are_rounded_and_byte_order_is_heeded():
    odd = np.array([[0, 128, 129, 32767, 65535 - 128, 65535 - 129, 65535]], np.uint16)
    expected = np.rint(odd / 257).astype(np.uint8)
    assert (rgb(encoded(Image.fromarray(odd), "PNG"))[:, :, 0] == expected).all()
    swapped = Image.frombytes("I;16B", (7, 1), odd.astype(">u2").tobytes())
    assert (rgb(encoded(swapped, "TIFF"))[:, :, 0] == expected).all()


def test_tiff_of_16_bits_with_white_at_zero():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    content = bytearray(encoded(Image.fromarray(RAMP), "TIFF", tiffinfo=tags))
    place = content.find(struct.pack("<HHI", 262, 3, 1))
    content[place + 8] = 0
    assert (rgb(bytes(content))[:, :, 0] == 255 - RAMP // 257).all()


@pytest.mark.parametrize(
    ("mode", "kind", "what"), [("I", "TIFF", "whole numbers"), ("F", "TIFF", "fractions"), ("F", "PPM", "fractions")]
)
def test_32_bits_are_refused_by_file_and_mode(tmp_path: Path, mode: str, kind: str, what: str):
    split = one_file(tmp_path / "x.tif", encoded(Image.new(mode, (4, 4), 3), kind))
    with pytest.raises(
        FailedError, match=rf"x\.tif cannot be decoded as an image: its pixels are {what} .*mode {mode}\)"
    ):
        decode(split, 0, View(4))


RED = (200, 40, 40)


def palette(transparent: bool) -> bytes:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    return encoded(image, "PNG", **({"transparency": bytes([0, 9])} if transparent else {}))


@pytest.mark.parametrize(
    ("content", "colour"),
    [
        (palette(False), RED),
        (palette(True), RED),
        (encoded(Image.new("LA", (4, 4), (90, 3)), "PNG"), (90, 90, 90)),
        (encoded(Image.new("RGBA", (4, 4), (*RED, 0)), "PNG"), RED),
        (encoded(Image.new("L", (4, 4), 90), "PNG", transparency=90), (90, 90, 90)),
        (encoded(Image.new("1", (4, 4), 1), "PNG"), (255, 255, 255)),
        (encoded(Image.new("1", (4, 4), 1), "TIFF"), (255, 255, 255)),
        (encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (encoded(Image.new("RGB", (4, 4), RED), "GIF"), RED),
        (encoded(Image.new("RGB", (4, 4), (204, 51, 51)).convert("PA"), "TIFF"), (204, 51, 51)),
    ],
)
def test_colours(content: bytes, colour: tuple[int, int, int]):
    assert (rgb(content) == colour).all()


def test_the_first_frame_is_used():
    frames = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (10, 200)]
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert rgb(content)[0, 0].tolist() == [10, 0, 0]


def exif(entries: list[tuple[int, int, int, bytes]], extra: bytes = b"") -> bytes:
    """EXIF by hand: (tag, type, count, four bytes)."""
    rows = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + rows + bytes(4) + extra


SIX = (274, 3, 1, b"\x06\0\0\0")
AT = 8 + 2 + 12 * 2 + 4


@pytest.mark.parametrize(
    ("notes", "turned"),
    [
        (exif([SIX]), True),
        (exif([SIX, (282, 5, 1, struct.pack("<I", AT))], struct.pack("<iI", -1, 0)), True),
        (exif([SIX, (282, 2, 9, b"\xff\xff\0\0")]), True),
        (exif([SIX, (305, 7, 2**31, bytes(4))]), True),
        (exif([SIX, (34665, 4, 1, b"\xff\xff\xff\x7f")]), True),
        (exif([SIX])[:-2], True),
        (exif([(274, 4, 1, b"\x06\0\0\0")]), True),
        (exif([(274, 2, 2, b"6\0\0\0")]), False),
        (exif([(274, 3, 1, b"\x63\0\0\0")]), False),
        (exif([(274, 3, 0, bytes(4))]), False),
        (exif([SIX])[:12], False),
        (b"Exif\0\0", False),
        (b"Exif\0\0no notes at all", False),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_notes_leave_the_picture_and_what_is_readable_of_its_position(notes: bytes, turned: bool, kind: str):
    image = Image.new("RGB", (16, 8))
    image.paste((255, 255, 255), (0, 0, 16, 4))
    content = encoded(image, kind, exif=notes if kind == "JPEG" else notes[6:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a run, where Pillow's warnings are no errors
        pixels = rgb(content)
    assert pixels.shape[:2] == ((16, 8) if turned else (8, 16))
    assert pixels[0, -1].min() > 200
    assert pixels[-1, 0].max() < 60


@pytest.mark.parametrize("broken", [False, True])
def test_tiff_turns_once(broken: bool):
    image = Image.new("RGB", (16, 8))
    image.paste((255, 255, 255), (0, 0, 16, 4))
    notes = TiffImagePlugin.ImageFileDirectory_v2()
    notes[274] = 6
    content = bytearray(encoded(image, "TIFF", tiffinfo=notes, dpi=(3, 3)))
    if broken:
        tag = content.find(struct.pack("<HHI", 282, 5, 1))
        place = struct.unpack_from("<I", content, tag + 8)[0]
        struct.pack_into("<iI", content, place, -1, 0)
    pixels = rgb(bytes(content))
    assert pixels.shape[:2] == (16, 8)
    assert pixels[0, -1].min() == 255


@pytest.mark.parametrize(
    "error",
    [SyntaxError("x"), struct.error("x"), ZeroDivisionError(), KeyError("x"), MemoryError(), RuntimeError("a\nb")],
)
def test_decoders_may_raise_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(FailedError, match=r"x\.png cannot be decoded as an image: .+") as told:
        decode(one_file(tmp_path / "x.png", grey(3)), 0, View(4))
    assert str(told.value).count("\n") == 0


def test_large_pictures_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 63)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(FailedError, match=r"x\.png cannot be decoded as an image: it is 8×8 pixels large"):
        decode(one_file(tmp_path / "x.png", grey(3)), 0, View(4))


def test_a_strip_takes_no_more_memory_than_its_middle(tmp_path: Path):
    """Scaled whole by its shorter side this one would have 4 · 10⁹ pixels."""
    strip = np.zeros((1, 60001, 3), np.uint8)
    strip[:, 29990:30011] = 255
    split = one_file(tmp_path / "x.png", encoded(Image.fromarray(strip)))
    assert decode(split, 0, View(224, crop=0.875)).min() == 255


def test_a_strip_that_is_not_long_is_as_before(tmp_path: Path):
    image = Image.fromarray(np.random.RandomState(0).randint(0, 255, (9, 30, 3)).astype(np.uint8))
    assert decoding._middle_of_strip(image) is image


def test_what_is_no_picture_is_told_without_addresses(tmp_path: Path):
    with pytest.raises(
        FailedError, match=r"x\.png cannot be decoded as an image: it is of no picture format that is read$"
    ):
        decode(one_file(tmp_path / "x.png", encoded(Image.new("RGB", (4, 4)), "EPS")), 0, View(4))
