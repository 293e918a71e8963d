"""Networks of timm with a mechanism grafted on: all that training asks of `crosslayer.graft`."""

from typing import Any

import timm
from torch import nn

from crosslayer.errors import FailedError, UsageError
from crosslayer.mechanisms.registry import unknown_name
from crosslayer.models import graft
from crosslayer.training.recipe import Recipe
from crosslayer.training.weights import load_weights


def grafted(recipe: Recipe, num_classes: int, *, begin: bool) -> nn.Module:
    """The recipe's network of timm with the mechanism on it.

    Args:
        recipe: names both.
        num_classes: outputs of the classifier, which is fresh where the weights have another number of them.
        begin: a run begins, so the backbone's weights are wanted; others come from a checkpoint.

    Raises:
        UsageError: no such network, weights that are of another one, or a mechanism it cannot carry.
        FailedError: a download that failed.
    """
    backbone = _backbone_of_timm(recipe, num_classes, begin=begin)
    if begin and (recipe.weights or recipe.pretrained):
        _start_classifiers(backbone, recipe, num_classes)
    if begin and recipe.weights:
        load_weights(backbone, recipe.weights, classifier_names(recipe))
    if recipe.mechanism == "none":
        return backbone
    try:
        return graft(backbone, recipe.mechanism, **recipe.mechanism_options())
    except ValueError as error:
        raise UsageError(f"--backbone {recipe.backbone}: {error}") from error


def _backbone_of_timm(recipe: Recipe, num_classes: int, *, begin: bool) -> nn.Module:
    """The network as timm has it."""
    name = recipe.backbone
    if not timm.is_model(name.split(".")[0]):
        raise UsageError(unknown_name("network of timm", name, timm.list_models()))
    download = begin and recipe.pretrained and not recipe.weights
    try:
        return timm.create_model(name, pretrained=download, num_classes=num_classes, **_regularisation(recipe))
    except Exception as error:
        # The hub and timm raise many kinds; without a download none of them is the user's.
        if not download:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FailedError(
            f"cannot get timm's weights of {name} ({reason}); give --weights FILE, or --no-pretrained"
        ) from error


def _regularisation(recipe: Recipe) -> dict[str, Any]:
    """What timm's own networks are told of it."""
    told = {"drop_rate": recipe.dropout, "drop_path_rate": recipe.stochastic_depth}
    return {name: rate for name, rate in told.items() if rate}


def _start_classifiers(backbone: nn.Module, recipe: Recipe, num_classes: int) -> None:
    """Zero logits where the pretrained features meet a fresh classifier: it has nothing to unlearn."""
    if not recipe.weights and getattr(timm.get_pretrained_cfg(recipe.backbone), "num_classes", None) == num_classes:
        return
    for name in classifier_names(recipe):
        for parameter in backbone.get_submodule(name).parameters():
            nn.init.zeros_(parameter)


def classifier_names(recipe: Recipe) -> tuple[str, ...]:
    """Where the network's classifiers are."""
    config = timm.get_pretrained_cfg(recipe.backbone)
    names = getattr(config, "classifier", None) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def normalisation(recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation that the backbone's weights were trained with, if it begins with any."""
    config = timm.get_pretrained_cfg(recipe.backbone) if recipe.pretrained or recipe.weights else None
    return (tuple(config.mean), tuple(config.std)) if config else None
