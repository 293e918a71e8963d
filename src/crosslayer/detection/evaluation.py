"""A detector over a validation split: every image once, shared among the processes."""

from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from crosslayer.detection.average_precision import AveragePrecision, average_precision
from crosslayer.detection.coco import Annotations
from crosslayer.detection.recipe import DetectionRecipe
from crosslayer.detection.scenes import evaluated_scenes
from crosslayer.detection.shapes import run_lengths

Found = list[dict[str, Any]]
"""Detections as COCO's tools take them."""


class Evaluation(NamedTuple):
    """Average precision of boxes, and of masks where there are any."""

    images: int
    boxes: AveragePrecision
    masks: AveragePrecision | None


def evaluate_detector(
    model: nn.Module, val: Annotations, recipe: DetectionRecipe, accelerator: Accelerator, workers: int
) -> Evaluation:
    """The same figures in every process; the main one computes them."""
    found = detect_all(model, val, accelerator, workers)
    if accelerator.num_processes > 1:
        found = gather_object(found)
    result: list[Evaluation | None] = [None]
    if accelerator.is_main_process:
        boxes = average_precision(val.truth, found, "bbox")
        masks = average_precision(val.truth, found, "segm") if recipe.detector == "mask_rcnn" else None
        result = [Evaluation(len(val), boxes, masks)]
    if accelerator.num_processes > 1:
        broadcast_object_list(result)
    assert result[0] is not None
    return result[0]


@torch.no_grad()
def detect_all(model: nn.Module, val: Annotations, accelerator: Accelerator, workers: int) -> Found:
    """What the detector finds in this process's images.

    They are looked at one by one: in a batch an image is padded to the largest, which changes what is found near its
    edges, and figures would depend on the number of processes.
    """
    model.eval()
    parts = torch.arange(len(val))[accelerator.process_index :: accelerator.num_processes].split(1)
    found: Found = []
    for indices, scenes in zip(parts, evaluated_scenes(val, parts, accelerator.device, workers), strict=True):
        with accelerator.autocast():
            outputs = model([scene.image.float() / 255 for scene in scenes])
        for i, output in zip(indices.tolist(), outputs, strict=True):
            found += _as_coco(output, val.ids[i], val.categories.ids)
    return found


def _as_coco(output: dict[str, Tensor], image_id: int, category_ids: tuple[int, ...]) -> Found:
    """One image's detections: boxes as left, top, width, height."""
    left, top, right, bottom = output["boxes"].float().unbind(1)
    boxes = torch.stack([left, top, right - left, bottom - top], 1).tolist()
    scores, labels = output["scores"].float().tolist(), output["labels"].tolist()
    found: Found = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for box, label, score in zip(boxes, labels, scores, strict=True)
    ]
    if "masks" in output:
        for detection, mask in zip(found, run_lengths(output["masks"][:, 0] > 0.5), strict=True):
            detection["segmentation"] = mask
    return found
