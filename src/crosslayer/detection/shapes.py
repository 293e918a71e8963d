"""Masks, in COCO's run lengths and as pixels."""

import json
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from crosslayer.errors import FailedError

Masks = UInt8[Tensor, "objects height width"]


def _coco_masks() -> Any:
    """faster-coco-eval's mask functions.

    Raises:
        FailedError: it is not installed.
    """
    try:
        from faster_coco_eval.core import mask
    except ModuleNotFoundError as error:
        raise FailedError(f"detection needs {error.name}: pip install 'crosslayer[detection]'") from error
    return mask


def drawn(text: str, height: int, width: int) -> np.ndarray:
    """A segmentation (polygons, or run lengths) as pixels, height × width, 0 or 1."""
    shape, tools = json.loads(text), _coco_masks()
    if isinstance(shape, list):
        polygons = [polygon for polygon in shape if len(polygon) >= 6]
        return tools.decode(tools.merge(tools.frPyObjects(polygons, height, width)))
    encoded = tools.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape
    return tools.decode(encoded)


def draw_all(texts: list[str], height: int, width: int) -> Masks:
    """Several segmentations of one image."""
    masks = [torch.from_numpy(np.ascontiguousarray(drawn(text, height, width))) for text in texts]
    return torch.stack(masks) if masks else torch.zeros((0, height, width), dtype=torch.uint8)


def run_lengths(masks: Bool[Tensor, "objects height width"]) -> list[dict[str, Any]]:
    """Masks in COCO's compressed run lengths, as text."""
    encoded = [_coco_masks().encode(np.asfortranarray(mask)) for mask in masks.cpu().numpy().astype(np.uint8)]
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in encoded]
