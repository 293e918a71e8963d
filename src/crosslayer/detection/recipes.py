"""The detectors' recipes: the paper's settings (arXiv 2406.13392, Table 3), which are mmdetection's 1x schedule."""

from crosslayer.detection.recipe import DetectionRecipe


def coco_faster() -> DetectionRecipe:
    """Faster R-CNN with a feature pyramid on COCO, the paper's 1x schedule: 12 epochs, 800 by 1333 pixels at most."""
    return DetectionRecipe(detector="faster_rcnn")


def coco_mask() -> DetectionRecipe:
    """Mask R-CNN with a feature pyramid on COCO, the paper's 1x schedule."""
    return DetectionRecipe(detector="mask_rcnn")
