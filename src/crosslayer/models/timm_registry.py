"""Every mechanism in every ImageNet backbone under a name of timm's: `timm.create_model("resnet50_dla_l")`."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from crosslayer.mechanisms import lookup, registered
from crosslayer.models.factory import backbones, create_model

IMAGENET = {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bicubic", "license": "mit"}


class Family(NamedTuple):
    """What timm must be told of one family of networks."""

    first_conv: str
    classifier: str
    out_indices: int | tuple[int, ...]
    """Levels that `features_only=True` gives unless others are asked for; a number counts from the end."""


FAMILIES = {
    "resnet": Family("conv1", "fc", (0, 1, 2, 3, 4)),
    "deit": Family("patch_embed.proj", "head", 3),
}


def names() -> dict[str, tuple[str, str]]:
    """Backbone and mechanism of every name."""
    return {
        f"{backbone}_{mechanism}": (backbone, mechanism)
        for backbone, known in backbones().items()
        if known.image_size == 224
        for mechanism in registered()
        if mechanism != "none" and (known.open_blocks or not lookup(mechanism).mechanism.reaches_into_blocks)
    }


def default_config(backbone: str) -> dict[str, Any]:
    """What timm is told of a network's images and ends; there are no weights to download."""
    family = family_of(backbone)
    first = f"{family.first_conv}.0" if backbone.endswith("c") else family.first_conv
    return {**IMAGENET, "first_conv": first, "classifier": family.classifier}


def family_of(backbone: str) -> Family:
    """The family that a backbone's name begins with."""
    return next(family for prefix, family in FAMILIES.items() if backbone.startswith(prefix))


def entrypoint(name: str, backbone: str, mechanism: str) -> Callable[..., nn.Module]:
    """The function that timm calls for a name."""

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        build = partial(build_named, backbone, mechanism)
        features = {"feature_cls": "getter", "out_indices": family_of(backbone).out_indices}
        return build_model_with_cfg(build, name, pretrained, feature_cfg=features, **kwargs)

    create.__name__, create.__module__ = name, __name__
    create.__doc__ = f"{backbone} with {mechanism} in every stage; keyword arguments are the mechanism's options."
    return create


def build_named(
    backbone: str,
    mechanism: str,
    num_classes: int = 1000,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    **options: Any,
) -> nn.Module:
    """`create_model` with timm's words."""
    if drop_path_rate:
        options["drop_path"] = drop_path_rate
    model = create_model(backbone, mechanism, num_classes=max(1, num_classes), in_chans=in_chans, **options)
    if not num_classes:
        model.reset_classifier(0)  # pyright: ignore[reportCallIssue]  # every backbone has timm's methods
    return model


_NAMES = names()
default_cfgs = generate_default_cfgs({name: default_config(backbone) for name, (backbone, _) in _NAMES.items()})
for _name, (_backbone, _mechanism) in _NAMES.items():
    globals()[_name] = register_model(entrypoint(_name, _backbone, _mechanism))
