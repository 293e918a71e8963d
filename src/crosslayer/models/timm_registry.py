"""Every mechanism in every backbone under a name of timm's: `timm.create_model("resnet50_dla_l")`.

timm keeps with each network what it was built from (`pretrained_cfg`, `_model_args`), so that its own tools can save it
and build it again; `create_model` goes the same way.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import timm
from timm.layers.config import is_scriptable
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn

from crosslayer.mechanisms import Mechanism, lookup, registered
from crosslayer.mechanisms.interface import looks_inside_attention
from crosslayer.models.factory import Backbone, backbones, build_model, find_backbone
from crosslayer.models.grafted_stage import fits_closed_blocks

IMAGENET = {"crop_pct": 0.875, "interpolation": "bicubic", "license": "apache-2.0"}
CIFAR = {"crop_pct": 1.0, "interpolation": "bicubic", "license": "apache-2.0", "num_classes": 100}
ALIASED = ("dla", "dynamic_layer_attention")
"""Elsewhere (segmentation-models-pytorch) a name with "dla" in it is a Deep Layer Aggregation network's."""


class Family(NamedTuple):
    """What timm must be told of one family of networks."""

    first_conv: str
    classifier: str
    out_indices: int | tuple[int, ...]
    """Levels that `features_only=True` gives unless others are asked for; a number counts from the end."""


FAMILIES = {
    "resnet": Family("conv1", "fc", (0, 1, 2, 3, 4)),
    "cifar_resnet": Family("conv1", "fc", (0, 1, 2, 3)),
    "deit": Family("patch_embed.proj", "head", 3),
}


def create_model(
    backbone: str,
    mechanism: str = "none",
    *,
    pretrained: bool = False,
    num_classes: int = 1000,
    in_chans: int = 3,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **options: Any,
) -> nn.Module:
    """A network with a mechanism in every stage, with fresh weights.

    Args:
        backbone: one of `list_backbones()`.
        mechanism: one of `list_mechanisms()`.
        pretrained: as timm has it; there are no weights to download yet, so True is refused. For weights of your own
            see `from_pretrained` and `load_released`.
        num_classes: outputs of the classifier; 0 for none.
        in_chans: channels of the images.
        features_only: timm's wrapper that returns maps of the levels `out_indices` in place of logits.
        out_indices: levels, or how many of the last [default: all of a ResNet, the last three of a DeiT].
        options: the mechanism's own options, as `crosslayer list` prints them; `unit`: what looks back in transformers,
            `block` or each block's two sublayers (`sublayer`); and timm's `drop_rate`, `drop_path_rate` (the
            mechanism's drop path), `global_pool`, `output_stride`, `img_size`, `pretrained_cfg`,
            `pretrained_cfg_overlay`, `checkpoint_path`, `cache_dir`, `exportable`, `scriptable`.

    Raises:
        ValueError: an unknown backbone, mechanism or option (the closest names are offered), or a bad value.
        RuntimeError: `pretrained`, without weights that are named in `pretrained_cfg_overlay`.
    """
    name = architecture(backbone, mechanism)
    if not timm.is_model(name):
        announce()
    if not timm.is_model(name):  # says what is wrong
        return build_model(backbone, mechanism, num_classes=num_classes, in_chans=in_chans, **options)
    if features_only:
        options["features_only"] = True
        if out_indices is not None:
            options["out_indices"] = out_indices
    elif out_indices is not None:
        raise ValueError("out_indices names levels of features; it needs features_only=True")
    return timm.create_model(name, pretrained, num_classes=num_classes, in_chans=in_chans, **options)


def architecture(backbone: str, mechanism: str) -> str:
    """The network's name in timm's registry."""
    return f"{backbone}_{mechanism}"


def names() -> dict[str, tuple[str, str]]:
    """Backbone and mechanism of every name."""
    return {
        architecture(backbone, mechanism): (backbone, mechanism)
        for backbone, known in backbones().items()
        for mechanism in registered()
        if fits(known, lookup(mechanism).mechanism)
    }


def fits(backbone: Backbone, mechanism: type[Mechanism[Any]]) -> bool:
    """Whether a backbone can have a mechanism: open blocks are those of ResNets, which have no attention."""
    return not looks_inside_attention(mechanism) if backbone.open_blocks else fits_closed_blocks(mechanism)


def _default_config(backbone: str, known: Backbone) -> dict[str, Any]:
    """What timm is told of a network's images and ends; there are no weights to download."""
    family, size = _family_of(backbone), known.image_size
    first = f"{family.first_conv}.0" if backbone.endswith("c") else family.first_conv
    shared = IMAGENET if size == 224 else CIFAR
    return {**shared, "input_size": (3, size, size), "first_conv": first, "classifier": family.classifier}


def _family_of(backbone: str) -> Family:
    """The family that a backbone's name begins with."""
    return next(family for prefix, family in FAMILIES.items() if backbone.startswith(prefix))


def _entrypoint(name: str, network: str, backbone: str, mechanism: str) -> Callable[..., nn.Module]:
    """The function that timm calls for a name, which is the network's own or stands for it."""

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if is_scriptable():
            raise ValueError(f"{name} cannot be scripted (torch.jit.script); trace or export it (exportable=True)")
        if not kwargs.get("img_size", True):
            del kwargs["img_size"]
        build = partial(build_model, backbone, mechanism)
        features = {"feature_cls": "getter", "out_indices": _family_of(backbone).out_indices}
        fits = None if find_backbone(backbone).open_blocks else checkpoint_filter_fn  # resamples position embeddings
        return build_model_with_cfg(
            build, network, pretrained, feature_cfg=features, pretrained_filter_fn=fits, **kwargs
        )

    create.__name__, create.__module__ = name, __name__
    create.__doc__ = f"{backbone} with {mechanism} in every stage; keyword arguments are the mechanism's options."
    return create


default_cfgs: dict[str, Any] = {}


def announce() -> None:
    """Registers the names that are not yet: all of them at first, and then a mechanism's of the user's own."""
    known = backbones()
    for network, (backbone, mechanism) in names().items():
        if network in default_cfgs:
            continue
        for name in dict.fromkeys((network, network.replace(*ALIASED))):
            default_cfgs.update(generate_default_cfgs({name: _default_config(backbone, known[backbone])}))
            globals()[name] = register_model(_entrypoint(name, network, backbone, mechanism))


announce()
