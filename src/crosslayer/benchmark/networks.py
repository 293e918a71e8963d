"""Networks by the names that `crosslayer bench` takes."""

from typing import Any

from torch import nn

from crosslayer.errors import UsageError
from crosslayer.mechanisms.registry import unknown_name
from crosslayer.models.factory import backbones
from crosslayer.training.learner import build_model
from crosslayer.training.recipe import Recipe

TIMM, TORCHVISION = "timm:", "torchvision:"
DEFAULT_SIZE = 224


def build_network(backbone: str, mechanism: str, num_classes: int) -> nn.Module:
    """A network with fresh weights.

    Args:
        backbone: this project's name, `timm:NAME`, `torchvision:NAME`, or a name of timm's that is not this project's.
        mechanism: built into this project's networks, grafted onto timm's; `none` for the plain network.
        num_classes: outputs of the classifier.

    Raises:
        UsageError: no such network or mechanism, the two do not go together, or no classes.
    """
    if num_classes < 1:
        raise UsageError(f"num_classes is {num_classes}; what is measured has a classifier of at least one class")
    if backbone.startswith(TORCHVISION):
        return _of_torchvision(backbone.removeprefix(TORCHVISION), mechanism, num_classes)
    grafted = _is_timms(backbone)
    recipe = Recipe(backbone=backbone.removeprefix(TIMM), mechanism=mechanism, graft=grafted)
    return build_model(recipe, num_classes)


def _is_timms(backbone: str) -> bool:
    """Whether a name is one of timm's networks: by its prefix, or for want of one of ours."""
    if backbone.startswith(TIMM) or backbone in backbones():
        return backbone not in backbones()
    import timm  # brings all its networks, which this project's own need not

    return timm.is_model(backbone.split(".")[0])


def _of_torchvision(name: str, mechanism: str, num_classes: int) -> nn.Module:
    """A plain network of torchvision.

    Raises:
        UsageError: no such network, or a mechanism was asked for.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UsageError(unknown_name("network of torchvision", name, known))
    if mechanism != "none":
        raise UsageError(
            f"--backbones {TORCHVISION}{name} is measured plain; give it as --baseline, or --mechanisms none"
        )
    return models.get_model(name, weights=None, num_classes=num_classes)


def default_image_size(backbone: str) -> int:
    """The side of the images that a network is made for, in pixels."""
    known = backbones()
    if backbone in known:
        return known[backbone].image_size
    if backbone.startswith(TORCHVISION):
        return DEFAULT_SIZE
    import timm

    config: Any = timm.get_pretrained_cfg(backbone.removeprefix(TIMM))
    return config.input_size[-1] if config else DEFAULT_SIZE
