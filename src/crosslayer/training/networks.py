"""The recipe's network."""

import torch
from torch import nn

from crosslayer.detection.recipe import DetectionRecipe
from crosslayer.errors import UsageError
from crosslayer.models import create_model
from crosslayer.training.recipe import Recipe, TrainingRecipe


def build_model(recipe: TrainingRecipe, num_classes: int, *, begin: bool = False) -> nn.Module:
    """The recipe's network, or a UsageError that says what is wrong with its name or options.

    Args:
        recipe: names the backbone, the mechanism and its options.
        num_classes: outputs of the classifier, or kinds of objects.
        begin: a run begins with it: pretrained weights are loaded, if the recipe names any.
    """
    options = recipe.mechanism_options()
    if isinstance(recipe, DetectionRecipe):
        from crosslayer.detection.building import build_detector  # brings torchvision's detectors

        return build_detector(recipe, num_classes, begin=begin)
    if isinstance(recipe, Recipe) and recipe.graft:
        from crosslayer.training.grafting import grafted  # brings timm's networks, which most recipes need not

        return grafted(recipe, num_classes, begin=begin)
    try:
        return create_model(recipe.backbone, recipe.mechanism, num_classes=num_classes, **options)
    except ValueError as error:
        raise UsageError(str(error)) from error


def placed(model: nn.Module, recipe: TrainingRecipe, device: torch.device) -> nn.Module:
    """The network on a device, in the recipe's memory format."""
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    return model.to(device, memory_format=memory_format)  # pyright: ignore[reportCallIssue]  # torch's stub lacks it
