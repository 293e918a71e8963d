"""Detections drawn onto their image."""

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib import colormaps
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from crosslayer.console import plain
from crosslayer.data.decode import opened
from crosslayer.data.pictures import upright_rgb
from crosslayer.data.split import FileSplit
from crosslayer.errors import UsageError
from crosslayer.files import whole_file

Pixels = UInt8[Tensor, "3 height width"]
COLOURS = [tuple(round(255 * part) for part in colour[:3]) for colour in colormaps["tab20"].colors]  # pyright: ignore[reportAttributeAccessIssue]  # a listed map has them
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def load_photo(path: str) -> Pixels:
    """An image file as it is looked at: upright, in RGB.

    Raises:
        UsageError: a file that is not there.
        FailedError: a file that is no image.
    """
    if not Path(path).is_file():
        raise UsageError(f"there is no image file {plain(path)}")
    with opened(FileSplit([path], np.zeros(1), fingerprint=""), 0) as image:
        rgb = upright_rgb(image)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def likely(output: dict[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """The detections of an image with at least this score."""
    kept = output["scores"] >= threshold
    return {name: value[kept].cpu() for name, value in output.items()}


def draw_detections(photo: Pixels, found: dict[str, Tensor], names: tuple[str, ...]) -> Pixels:
    """Masks, boxes, labels and scores, a colour for every category."""
    if not len(found["scores"]):
        return photo
    scale = max(photo.shape[1:]) / 640
    labels = found["labels"].tolist()
    colours: list[Any] = [COLOURS[(label - 1) % len(COLOURS)] for label in labels]
    if "masks" in found:
        photo = draw_segmentation_masks(photo, found["masks"][:, 0] > 0.5, alpha=0.45, colors=colours)
    scores = found["scores"].tolist()
    return draw_bounding_boxes(
        photo,
        found["boxes"],
        labels=[f"{names[label - 1]} {score:.2f}" for label, score in zip(labels, scores, strict=True)],
        colors=colours,
        width=max(1, round(2 * scale)),
        font=str(FONT),
        font_size=max(8, round(13 * scale)),
        label_colors=[_readable_on(colour) for colour in colours],
        fill_labels=True,
    )


def _readable_on(colour: tuple[int, int, int]) -> str:
    """Black or white, whichever is further from a colour's brightness (ITU-R BT.601)."""
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "white"


def write_picture(picture: Pixels, path: Path) -> None:
    """Writes a picture as PNG."""
    buffer = io.BytesIO()
    to_pil_image(picture).save(buffer, format="png")
    with whole_file(path) as file:
        file.write(buffer.getvalue())
