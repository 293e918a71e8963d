"""What a detector's recipe may hold: every fault is one sentence."""

from typing import TYPE_CHECKING

from crosslayer.errors import UsageError
from crosslayer.training.validation import check_shared, flag

if TYPE_CHECKING:
    from crosslayer.detection.recipe import DetectionRecipe

LEAST = {"image_size": 32, "max_size": 32, "jitter": 32, "pyramid_channels": 1, "warmup_steps": 0}


def check_detection(recipe: "DetectionRecipe") -> None:
    """Raises UsageError for a value outside its range, or values that contradict each other."""
    check_shared(recipe)
    for name, least in LEAST.items():
        if (value := getattr(recipe, name)) is not None and value < least:
            raise UsageError(f"{flag(name)} is {value}; it must be at least {least}")
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


def check_start(recipe: "DetectionRecipe") -> None:
    """Raises UsageError where fresh weights would be frozen."""
    if recipe.weights is None and (recipe.freeze_norm or recipe.frozen_stages >= 0):
        raise UsageError(
            "this recipe freezes a part of the backbone, which has no weights yet: give --weights (a run, a file, or a "
            "name of timm's), or train all of it with --frozen-stages -1 --no-freeze-norm"
        )
