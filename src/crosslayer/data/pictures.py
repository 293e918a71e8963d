"""From an encoded picture to upright RGB pixels: which formats are read, how values are scaled, what is refused."""

import functools
from io import BytesIO

import numpy as np
from PIL import Image

_FORMATS = frozenset(
    [
        "AVIF",
        "BLP",
        "BMP",
        "CUR",
        "DCX",
        "DDS",
        "DIB",
        "FLI",
        "FTEX",
        "GBR",
        "GIF",
        "ICNS",
        "ICO",
        "IM",
        "JPEG",
        "JPEG2000",
        "MPO",
        "MSP",
        "PCX",
        "PIXAR",
        "PNG",
        "PPM",
        "PSD",
        "QOI",
        "SGI",
        "SUN",
        "TGA",
        "TIFF",
        "WEBP",
        "XBM",
        "XPM",
    ]
)
"""Raster pictures. Of what else Pillow opens, some are documents, drawings, films and science's numbers."""
MAX_PIXELS = 1 << 27
"""Pixels of the largest picture that is decoded: half a GiB in memory."""
_ORIENTATION = 274
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """How the names of picture files end, in small letters."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in _FORMATS)


@functools.cache
def _readable_formats() -> tuple[str, ...]:
    """The formats that this Pillow was built with, the most common first."""
    Image.init()
    return tuple(name for name in Image.ID if name in _FORMATS)


def open_picture(file: str | BytesIO) -> Image.Image:
    """A picture whose pixels are not decoded yet: the first frame, of several.

    Raises:
        ValueError: it has no pixels, or more than MAX_PIXELS. Pillow raises errors of many other kinds.
    """
    image = Image.open(file, formats=_readable_formats())
    width, height = image.size
    if 0 < width * height <= MAX_PIXELS:
        return image
    image.close()
    raise ValueError(f"it is {width}×{height} pixels large, and from 1 to {MAX_PIXELS:,} pixels are decoded")


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image as its camera was held, in RGB with 8 bits a channel.

    Raises:
        ValueError: pixels whose black and white are not known.
    """
    position = _load(image)
    rgb = _to_rgb(image)
    return rgb.transpose(_UPRIGHT[position]) if position in _UPRIGHT else rgb


def rgb_of_size(image: Image.Image, size: tuple[int, int]) -> Image.Image | None:
    """The image in RGB, as it is stored if its width and height are so, else upright if they are; else nothing.

    Raises:
        ValueError: pixels whose black and white are not known.
    """
    position = _load(image)
    rgb = _to_rgb(image)
    if rgb.size != size and position in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[position])
    return rgb if rgb.size == size else None


def has_size(image: Image.Image, size: tuple[int, int]) -> bool:
    """Whether `rgb_of_size` has something to return; few images need to be decoded for that."""
    if image.size != size[::-1] or size[0] == size[1]:
        return image.size == size
    if image.format == "PNG":
        image.load()
    return _position(image) in _SIDEWAYS


def _load(image: Image.Image) -> int:
    """Decodes the pixels as they are stored; returns how the camera was held."""
    if image.format == "TIFF":  # turns itself while it is decoded, and then reads more of its notes than the position
        position = _position(image)
        image.getexif().pop(_ORIENTATION, None)
        image.load()
        return position
    image.load()  # PNG may note the position behind the pixels
    return _position(image)


def _position(image: Image.Image) -> int:
    """How the camera was held (EXIF's or XMP's tag 274), or 1 where that cannot be read."""
    try:
        position = image.getexif().get(_ORIENTATION)
    except Exception:  # notes may be damaged in any way, with sound pixels
        return 1
    return position if isinstance(position, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """The pixels as they are stored, in RGB with 8 bits a channel; what is transparent shows the colour it has.

    Raises:
        ValueError: pixels of 32 bits, whose black and white are not known.
    """
    mode = image.mode
    if _has_16_bits(image):
        return _from_16_bits(image)
    check_range(image)
    if mode in ("La", "RGBa"):
        return image.convert(mode.upper()).convert("RGB")
    if "transparency" in image.info and mode in ("1", "L", "P", "RGB"):  # Pillow asks for this step, or warns
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def check_range(image: Image.Image) -> None:
    """Raises ValueError for pixels of 32 bits, whose black and white are not known; nothing is decoded for that."""
    mode = image.mode
    if (mode == "F" or mode.startswith("I")) and not _has_16_bits(image):
        kind = "fractions" if mode == "F" else "whole numbers"
        raise ValueError(f"its pixels are {kind} of 32 bits (mode {mode}) of unknown range; save it with 8 or 16 bits")


def _has_16_bits(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey pixels of 16 bits: value / 257, rounded. TIFF's may have 12 bits, or white at zero."""
    notes = getattr(image, "tag_v2", {})
    brightest = 4095 if notes.get(258) in (12, (12,)) else 65535
    values = np.asarray(image).clip(0, brightest).astype(np.uint32)
    if notes.get(262) == 0:
        values = brightest - values
    return Image.fromarray(((values * 255 + brightest // 2) // brightest).astype(np.uint8)).convert("RGB")
