"""Networks by name."""

from typing import Any

from crosslayer.mechanisms import Mechanism, StageShape, configure, lookup, registered
from crosslayer.mechanisms.interface import unknown_name
from crosslayer.models.resnet import CIFARResNet, cifar_backbones


def create_model(backbone: str, mechanism: str = "none", *, num_classes: int, **options: Any) -> CIFARResNet:
    """A network with a mechanism in every stage, with fresh weights.

    Args:
        backbone: one of `list_backbones()`.
        mechanism: one of `list_mechanisms()`.
        num_classes: outputs of the classifier.
        options: the mechanism's own options, as `crosslayer list` prints them.

    Raises:
        ValueError: an unknown backbone, mechanism or option (the closest names are offered), or a bad value.
    """
    backbones = cifar_backbones()
    if backbone not in backbones:
        raise ValueError(unknown_name("backbone", backbone, backbones))
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; a classifier has at least one class")
    config = configure(mechanism, options)
    cls = lookup(mechanism).mechanism

    def stage_mechanism(shape: StageShape) -> Mechanism[Any]:
        return cls(shape, config)

    block, blocks_per_stage = backbones[backbone]
    return CIFARResNet(block, blocks_per_stage, num_classes, stage_mechanism)


def list_mechanisms() -> list[str]:
    """Names of all mechanisms."""
    return registered()


def list_backbones() -> list[str]:
    """Names of all backbones, by depth."""
    return list(cifar_backbones())
