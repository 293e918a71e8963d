"""COCO's average precision, by faster-coco-eval."""

import copy
from typing import Any, Literal, NamedTuple

import numpy as np

from crosslayer.errors import FailedError

AREAS = ("all", "small", "medium", "large")
MOST = 100
"""Detections of an image that count."""


class AveragePrecision(NamedTuple):
    """In %; None where there is no object to find (no large one, none of a category)."""

    figures: dict[str, float | None]
    """`ap` over IoUs of 0.5 to 0.95, `ap50`, `ap75`; `ap_small`, `ap_medium` and `ap_large` by the objects' area."""
    categories: dict[int, float | None]
    """Average precision of each category, by its id."""


def average_precision(
    truth: dict[str, Any], found: list[dict[str, Any]], what: Literal["bbox", "segm"]
) -> AveragePrecision:
    """How well detections fit the annotations.

    Args:
        truth: images, categories and annotations in COCO's format; crowds are ignored, as COCO's tools do.
        found: detections with `image_id`, `category_id`, `bbox`, `score`, and for `segm` their `segmentation`.
        what: boxes or masks.

    Raises:
        FailedError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ModuleNotFoundError as error:
        raise FailedError(f"detection needs {error.name}: pip install 'crosslayer[detection]'") from error

    annotated = COCO(copy.deepcopy(truth))
    detected = annotated.loadRes([_as_result(detection, what) for detection in found])
    evaluator: Any = COCOeval_faster(annotated, detected, what)
    evaluator.evaluate()
    evaluator.accumulate()
    precision = np.asarray(evaluator.eval["precision"])  # IoU × recall × category × area × most detections
    most = list(evaluator.params.maxDets).index(MOST)
    thresholds = np.round(evaluator.params.iouThrs, 2).tolist()
    return AveragePrecision(
        figures_of(precision[..., most], thresholds),
        {
            int(category): mean(precision[:, :, place, 0, most])
            for place, category in enumerate(evaluator.params.catIds)
        },
    )


def _as_result(detection: dict[str, Any], what: str) -> dict[str, Any]:
    """A detection as its kind of evaluation takes it: with masks, sizes are those of the mask."""
    result = dict(detection)
    result.pop("bbox" if what == "segm" else "segmentation", None)
    return result


def figures_of(precision: np.ndarray, thresholds: list[float]) -> dict[str, float | None]:
    """COCO's six averages of precision over IoU × recall × category × area."""
    half, most = (precision[thresholds.index(iou)] for iou in (0.5, 0.75))
    sizes = {f"ap_{name}": mean(precision[..., area]) for area, name in enumerate(AREAS) if area}
    return {"ap": mean(precision[..., 0]), "ap50": mean(half[..., 0]), "ap75": mean(most[..., 0])} | sizes


def mean(precision: np.ndarray) -> float | None:
    """Of what was measured, in %; -1 marks what was not."""
    measured = precision[precision > -1]
    return float(100 * measured.mean()) if measured.size else None
