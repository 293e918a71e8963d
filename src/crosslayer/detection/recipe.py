"""What a detector is trained on, and how: one flat, frozen dataclass; every field is a command-line option."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

from crosslayer.errors import UsageError
from crosslayer.training.recipe import NO_DATA, TaskName, TrainingRecipe, check_bounds, check_shared
from crosslayer.training.schedule import decayed, warmed

ScheduleName = Literal["1x", "2x"]
LENGTHS: dict[ScheduleName, int] = {"1x": 1, "2x": 2}
BASE_BATCH = 16
"""Images of the batch that `--lr` is meant for."""


@dataclasses.dataclass(frozen=True)
class DetectionRecipe(TrainingRecipe):
    """What a detector is trained on, and how.

    Two runs of one recipe and seed on a CPU are the same to the bit; a GPU adds up gradients of regions in any order.
    """

    task: ClassVar[TaskName] = "detection"
    detector: Literal["faster_rcnn", "mask_rcnn"] = "faster_rcnn"
    """Boxes, or boxes and masks."""
    backbone: str = "resnet50"
    """Network with maps at strides 4 to 32 (`crosslayer list`), or with --graft any of timm's."""
    weights: str | None = None
    """Begin with the backbone's weights of a run directory, a file, or a name of timm's, which is downloaded."""
    data: str = NO_DATA
    """A folder in COCO's layout: annotations/instances_train2017.json and …val2017.json, train2017/, val2017/."""
    frozen_stages: int = 1
    """Stages that do not learn, with the stem and their mechanisms; 0 for the stem alone, -1 for none."""
    freeze_norm: bool = True
    """Let batch normalisation, the mechanism's too, use and keep the statistics of the weights."""
    freeze_epochs: int = 0
    """First epochs in which the backbone does not learn, but its mechanism, the pyramid and the heads do."""
    pyramid_channels: int = 256
    """Channels of the feature pyramid's maps."""
    image_size: int = 800
    """Pixels that the shorter side of an image is scaled to."""
    max_size: int = 1333
    """Pixels that the longer side may then have."""
    multi_scale: tuple[int, ...] = ()
    """Further shorter sides: training draws one of these and --image-size for every image."""
    jitter: int | None = None
    """Large-scale jitter: train on squares of this side (1024 in its paper), cut out of images scaled by 0.1 to 2."""
    flip: bool = True
    """Mirror images by chance."""
    keep_empty: bool = False
    """Train on images without objects too."""
    epochs: int = 12
    """Passes over the training set; --schedule 2x doubles them."""
    batch_size: int = 16
    """Images per optimizer step, over all processes."""
    lr: float = 0.02
    """Learning rate for a batch of 16; for others it is scaled in proportion."""
    graft_lr: float | None = None
    """The same for mechanism, pyramid and heads [default: lr]."""
    schedule: ScheduleName = "1x"
    """1x: --epochs and --milestones as they are; 2x: both doubled."""
    milestones: tuple[int, ...] = (8, 11)
    """Epochs after which the learning rate is divided by ten; --schedule 2x doubles them."""
    warmup_steps: int = 500
    """Optimizer steps of linear warm-up from a thousandth of the learning rate."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def total_epochs(self) -> int:
        """Passes over the training set in all."""
        return self.epochs * LENGTHS[self.schedule]

    @property
    def decays(self) -> tuple[int, ...]:
        """Epochs after which the rate is divided by ten, in all."""
        return tuple(milestone * LENGTHS[self.schedule] for milestone in self.milestones)


def rate_factor(recipe: DetectionRecipe, step: int, steps_per_epoch: int) -> float:
    """What every learning rate is multiplied with: the batch's share of 16, linear warm-up, then steps of a tenth."""
    warm = warmed(step, recipe.warmup_steps, 0.001)
    return recipe.batch_size / BASE_BATCH * warm * decayed(step, recipe.decays, steps_per_epoch)


_LEAST = {"image_size": 32, "max_size": 32, "jitter": 32, "pyramid_channels": 1, "warmup_steps": 0}


def _check(recipe: DetectionRecipe) -> None:
    """Raises UsageError for a value outside its range, or values that contradict each other."""
    check_shared(recipe)
    for name, least in _LEAST.items():
        check_bounds(name, getattr(recipe, name), least)
    if recipe.max_size < recipe.image_size:
        raise UsageError(f"--max-size is {recipe.max_size}; it must be at least --image-size {recipe.image_size}")
    if not -1 <= recipe.frozen_stages <= 4:
        raise UsageError(f"--frozen-stages is {recipe.frozen_stages}; it is from -1 (nothing) to 4 (all)")
    if recipe.multi_scale and min(recipe.multi_scale) < 32:
        raise UsageError(f"--multi-scale has {min(recipe.multi_scale)}; sides are of at least 32 pixels")
    if recipe.multi_scale and recipe.jitter:
        raise UsageError("--multi-scale and --jitter are two ways to scale images: give one of them")
    if recipe.compile == "graphs":
        raise UsageError("--compile graphs needs images of one size, which detectors do not have; use --compile on")


def check_start(recipe: DetectionRecipe) -> None:
    """Raises UsageError where fresh weights would be frozen."""
    if recipe.weights is None and (recipe.freeze_norm or recipe.frozen_stages >= 0):
        raise UsageError(
            "this recipe freezes a part of the backbone, which has no weights yet: give --weights (a run, a file, or a "
            "name of timm's), or train all of it with --frozen-stages -1 --no-freeze-norm"
        )


def coco_faster() -> DetectionRecipe:
    """Faster R-CNN with a feature pyramid on COCO, the paper's 1x schedule: 12 epochs, 800 by 1333 pixels at most."""
    return DetectionRecipe(detector="faster_rcnn")


def coco_mask() -> DetectionRecipe:
    """Mask R-CNN with a feature pyramid on COCO, the paper's 1x schedule."""
    return DetectionRecipe(detector="mask_rcnn")


RECIPES: dict[str, Callable[[], DetectionRecipe]] = {"coco_faster": coco_faster, "coco_mask": coco_mask}
"""The paper's settings (arXiv 2406.13392, Table 3), which are mmdetection's 1x schedule."""
