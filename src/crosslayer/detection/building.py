"""The recipe's detector."""

from torchvision.models.detection.faster_rcnn import FasterRCNN

from crosslayer.detection.detector import create_detector
from crosslayer.detection.recipe import DetectionRecipe
from crosslayer.errors import UsageError


def build_detector(recipe: DetectionRecipe, num_classes: int, *, begin: bool) -> FasterRCNN:
    """The recipe's detector; a run that begins takes the backbone's weights, others come from a checkpoint.

    Raises:
        UsageError: a wrong name, option or value, or weights of another network.
        FailedError: a download that failed.
    """
    try:
        return create_detector(
            recipe.detector,
            recipe.backbone,
            recipe.mechanism,
            num_classes,
            recipe.weights if begin else None,
            graft=recipe.graft,
            frozen_stages=recipe.frozen_stages,
            freeze_norm=recipe.freeze_norm,
            pyramid_channels=recipe.pyramid_channels,
            min_size=(*recipe.multi_scale, recipe.image_size) if recipe.multi_scale else recipe.image_size,
            max_size=recipe.max_size,
            resize_in_training=recipe.jitter is None,
            **recipe.mechanism_options(),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
