"""Networks by name."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from crosslayer.mechanisms import Mechanism, StageShape, configure, lookup, registered
from crosslayer.mechanisms.interface import unknown_name
from crosslayer.models.resnet import ResNet, ResNetShape, cifar_resnets, imagenet_resnets
from crosslayer.models.stage import MechanismFactory
from crosslayer.models.vit import DEIT_WIDTHS, deit


class Backbone(NamedTuple):
    """How a network is built from (classes, mechanism, further arguments), and its images' side in pixels."""

    build: Callable[..., nn.Module]
    image_size: int
    open_blocks: bool
    """Whether its blocks are this project's own, which mechanisms may reach into."""


def create_model(
    backbone: str, mechanism: str = "none", *, num_classes: int, in_chans: int = 3, **options: Any
) -> nn.Module:
    """A network with a mechanism in every stage, with fresh weights.

    Args:
        backbone: one of `list_backbones()`.
        mechanism: one of `list_mechanisms()`.
        num_classes: outputs of the classifier.
        in_chans: channels of the images.
        options: the mechanism's own options, as `crosslayer list` prints them.

    Raises:
        ValueError: an unknown backbone, mechanism or option (the closest names are offered), or a bad value.
    """
    known = find_backbone(backbone)
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; a classifier has at least one class")
    return known.build(num_classes, mechanism_factory(mechanism, options), in_chans=in_chans)


def find_backbone(name: str) -> Backbone:
    """The backbone called `name`.

    Raises:
        ValueError: there is none; the closest names are offered.
    """
    known = backbones()
    if name not in known:
        raise ValueError(unknown_name("backbone", name, known))
    return known[name]


def image_size_of(backbone: str) -> int:
    """Side of the images that the backbone's published results are for, in pixels.

    Raises:
        ValueError: an unknown backbone; the closest names are offered.
    """
    return find_backbone(backbone).image_size


def mechanism_factory(mechanism: str, options: dict[str, Any]) -> MechanismFactory:
    """What builds the mechanism of one stage, its options checked.

    Raises:
        ValueError: an unknown mechanism or option, or a bad value.
    """
    config = configure(mechanism, options)
    cls = lookup(mechanism).mechanism

    def build(shape: StageShape) -> Mechanism[Any]:
        return cls(shape, config)

    return build


def backbones() -> dict[str, Backbone]:
    """Every backbone by name."""
    cifar = {name: resnet(shape, 32) for name, shape in cifar_resnets().items()}
    imagenet = {name: resnet(shape, 224) for name, shape in imagenet_resnets().items()}
    return cifar | imagenet | {name: Backbone(partial(deit, name), 224, open_blocks=False) for name in DEIT_WIDTHS}


def resnet(shape: ResNetShape, image_size: int) -> Backbone:
    """A residual network of this shape."""

    def build(num_classes: int, mechanism: MechanismFactory, in_chans: int = 3) -> nn.Module:
        return ResNet(shape, num_classes, mechanism, in_chans)

    return Backbone(build, image_size, open_blocks=True)


def list_mechanisms() -> list[str]:
    """Names of all mechanisms."""
    return registered()


def list_backbones() -> list[str]:
    """Names of all backbones, by family and depth."""
    return list(backbones())
