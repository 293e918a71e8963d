"""Networks by name."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from crosslayer.mechanisms import configure, lookup, registered
from crosslayer.mechanisms.registry import unknown_name
from crosslayer.models.blocks import MechanismFactory, Unit
from crosslayer.models.resnet import ResNet, ResNetShape, cifar_resnets, imagenet_resnets

DEIT_WIDTHS = {"deit_tiny": 192, "deit_small": 384, "deit_base": 768}


class Backbone(NamedTuple):
    """How a network is built from (classes, mechanism, further arguments), and its images' side in pixels."""

    build: Callable[..., nn.Module]
    image_size: int
    open_blocks: bool
    """Whether its blocks are this project's own, which mechanisms may reach into."""


_NOT_HAD = (
    "attn_drop_rate",
    "bn_eps",
    "bn_momentum",
    "bn_tf",
    "drop_block_rate",
    "drop_connect_rate",
    "patch_drop_rate",
    "pos_drop_rate",
    "proj_drop_rate",
)
"""Words that timm's tools pass to any network and that these have nothing for; a zero means nothing."""


def build_model(
    backbone: str,
    mechanism: str = "none",
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    unit: Unit = "block",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    global_pool: str | None = None,
    output_stride: int = 0,
    img_size: int | Sequence[int] | None = None,
    **options: Any,
) -> nn.Module:
    """What `create_model` asks for, without timm's part in it: a network with fresh weights.

    Raises:
        ValueError: an unknown backbone, mechanism or option (the closest names are offered), or a bad value.
    """
    known = find_backbone(backbone)
    for name in _NOT_HAD:
        if value := options.pop(name, None):
            raise ValueError(f"{name} is {value!r}; crosslayer's networks have nothing of the kind")
    for name, value, least in (("num_classes", num_classes, 0), ("in_chans", in_chans, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    if unit not in ("block", "sublayer"):
        raise ValueError(f"unit is {unit!r}; it is one of block, sublayer")
    if unit == "sublayer" and known.open_blocks:
        raise ValueError(f"{backbone} has no sublayers; unit='sublayer' is for transformers")
    further: dict[str, Any] = {"in_chans": in_chans, "drop_rate": drop_rate or 0.0}
    if global_pool is not None:
        further["global_pool"] = global_pool
    size = _height_and_width(img_size) if img_size else None
    if known.open_blocks:
        further |= {"output_stride": output_stride} if output_stride else {}
    else:
        if output_stride and output_stride < 16:
            raise ValueError(f"output_stride is {output_stride}; a patch of {backbone} is 16 pixels wide")
        further |= {"unit": unit} | ({"img_size": size} if size else {})
    if drop_path_rate:
        options["drop_path"] = _drop_path(mechanism, drop_path_rate, options)
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}  # of JSON
    return known.build(num_classes, mechanism_factory(mechanism, options), **further)


def _height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """An image's size in pixels, from its side or from both."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f"img_size is {size!r}; it is a number of pixels, or height and width")
    return pair


def _drop_path(mechanism: str, rate: float, options: dict[str, Any]) -> float:
    """timm's word for what mechanisms that have it call drop_path."""
    if "drop_path" not in {field.name for field in dataclasses.fields(lookup(mechanism).config)}:
        raise ValueError(f"drop_path_rate is {rate}; mechanism {mechanism!r} has no drop path")
    if options.get("drop_path", rate) != rate:
        raise ValueError(
            f"drop_path_rate is {rate} and drop_path {options['drop_path']}; they are one thing, say it once"
        )
    return rate


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
    return MechanismFactory(lookup(mechanism).mechanism, configure(mechanism, options))


def backbones() -> dict[str, Backbone]:
    """Every backbone by name."""
    cifar = {name: resnet(shape, 32) for name, shape in cifar_resnets().items()}
    imagenet = {name: resnet(shape, 224) for name, shape in imagenet_resnets().items()}
    return cifar | imagenet | {name: deit(width) for name, width in DEIT_WIDTHS.items()}


def resnet(shape: ResNetShape, image_size: int) -> Backbone:
    """A residual network of this shape."""

    def build(num_classes: int, mechanism: MechanismFactory, **further: Any) -> nn.Module:
        return ResNet(shape, num_classes, mechanism, **further)

    return Backbone(build, image_size, open_blocks=True)


def deit(width: int) -> Backbone:
    """DeiT (arXiv 2012.12877) of this width, patch 16, 12 blocks, a mechanism acting in full from the start."""

    def build(num_classes: int, mechanism: MechanismFactory, **further: Any) -> nn.Module:
        from crosslayer.models.vit import layer_attention_vit

        return layer_attention_vit(width, 12, num_classes, mechanism, **further)

    return Backbone(build, 224, open_blocks=False)


def list_mechanisms() -> list[str]:
    """Names of all mechanisms."""
    return registered()


def list_backbones() -> list[str]:
    """Names of all backbones, by family and depth."""
    return list(backbones())
