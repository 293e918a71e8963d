"""What config.json says of a network: written from the network, checked when read, and built.

The form is timm's, so that `timm.create_model("hf-hub:OWNER/NAME", pretrained=True)` reads it too once crosslayer is
imported: `architecture` is a name of timm's registry, `model_args` what it is called with, `pretrained_cfg` what images
it takes, `label_names` its classes. A graft's architecture is `crosslayer_graft`.

What is read may come from anywhere: nothing is built of a description that has not this form, and no code of it is run.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import timm
from torch import nn

from crosslayer.errors import reason
from crosslayer.mechanisms import lookup
from crosslayer.models.grafting import GRAFT
from crosslayer.models.timm_registry import announce, names

_Scalar = bool | int | float | str | None


class DescribedImages(msgspec.Struct, frozen=True, omit_defaults=False):
    """What images a network takes, in timm's words."""

    input_size: tuple[int, int, int] = (3, 224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_pct: float = 0.875
    interpolation: str = "bicubic"
    crop_mode: str = "center"
    first_conv: str | tuple[str, ...] | None = None
    classifier: str | tuple[str, ...] | None = None
    num_classes: int = 1000

    def __post_init__(self) -> None:
        if not all(0 < side <= 1 << 16 for side in self.input_size):
            raise ValueError(f"input_size is {self.input_size}, which is no image's")
        if not (len(self.mean) == len(self.std) == self.input_size[0]):
            raise ValueError(f"mean and std are not of {self.input_size[0]} channels")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or not all(s > 0 for s in self.std):
            raise ValueError(f"mean {self.mean} and std {self.std} normalise nothing")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct is {self.crop_pct}; it must be in (0, 1]")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation is {self.interpolation!r}; it is one of bilinear, bicubic")


class Description(msgspec.Struct, frozen=True):
    """What config.json holds."""

    architecture: str
    num_classes: int
    pretrained_cfg: DescribedImages
    model_args: dict[str, _Scalar | list[Any] | dict[str, Any]] = {}
    label_names: tuple[str, ...] | None = None
    num_features: int | None = None
    global_pool: str | None = None

    def __post_init__(self) -> None:
        if self.label_names is not None and len(self.label_names) != self.num_classes:
            raise ValueError(f"{len(self.label_names)} label_names are given for {self.num_classes} classes")


def describe(model: nn.Module, class_names: Sequence[str] | None) -> dict[str, Any]:
    """A network's own account of itself, as config.json has it."""
    known = getattr(model, "pretrained_cfg", None)
    arguments = getattr(model, "_model_args", None)
    if not isinstance(known, Mapping) or known.get("architecture") not in _architectures() or arguments is None:
        raise ValueError(
            f"{type(model).__name__} cannot be rebuilt from a description: what is saved is made by "
            "crosslayer.create_model, or by crosslayer.graft from a network of timm.create_model"
        )
    classes = getattr(model, "num_classes", 0)
    labels = known.get("label_names") if class_names is None else tuple(class_names)
    if labels is not None and class_names is None and len(labels) != classes:
        labels = None  # of a classifier that was there before
    pool = getattr(model, "global_pool", None)
    pool = getattr(pool, "pool_type", pool)
    current: dict[str, Any] = {"num_classes": classes} if hasattr(model, "num_classes") else {}
    if isinstance(pool, str):
        current["global_pool"] = pool
    rates = ("drop_rate", "drop_path_rate", "features_only") if not arguments.get("features_only") else ()
    fields = [field.name for field in dataclasses.fields(timm.models.PretrainedCfg)]
    images = {key: known[key] for key in msgspec.structs.asdict(DescribedImages()) if known.get(key) is not None}
    assert set(images) <= set(fields), "timm's words"
    channels = arguments.get("in_chans", images.get("input_size", (3,))[0])
    images["input_size"] = (channels, *images.get("input_size", (3, 224, 224))[1:])
    for key in ("mean", "std"):
        if len(images.get(key, ())) != channels:  # as timm has it for other channels
            images[key] = (sum(images[key]) / len(images[key]),) * channels
    return {
        "architecture": known["architecture"],
        "num_classes": classes,
        "num_features": getattr(model, "num_features", None),
        **({"global_pool": pool} if isinstance(pool, str) else {}),
        **({"label_names": list(labels)} if labels else {}),
        "model_args": {key: value for key, value in arguments.items() if key not in rates} | current,
        "pretrained_cfg": {**images, "num_classes": classes},
    }


def _architectures() -> set[str]:
    announce()
    return {GRAFT, *names()}


def checked_description(content: bytes, where: str) -> Description:
    """A description that is one of crosslayer's networks'."""
    try:
        config = msgspec.json.decode(content, type=Description)
        if config.architecture not in _architectures():
            raise ValueError(f"architecture {config.architecture!r} is none of crosslayer's")
        _check_arguments(config)
    except (msgspec.MsgspecError, ValueError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{where} describes no network of crosslayer: {reason(error)}") from error
    return config


_OWN = ("num_classes", "in_chans", "unit", "global_pool", "output_stride", "img_size", "drop_rate", "drop_path_rate")
_LOADING = (
    "cache_dir",
    "checkpoint_path",
    "exportable",
    "model_name",
    "no_jit",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "scriptable",
)


def _check_arguments(config: Description) -> None:
    """Raises unless a network may be called with `model_args`: values of the right types, and none that names files."""
    arguments = config.model_args
    if named := sorted(set(arguments) & set(_LOADING)):
        raise ValueError(f"model_args has {named[0]}, which no description of a network needs")
    sizes = {"num_classes": config.num_classes, "in_chans": arguments.get("in_chans", 3)}
    if not all(type(size) is int and 0 <= size <= 1 << 24 for size in sizes.values()):
        raise ValueError(f"num_classes and in_chans are {list(sizes.values())}, which no network has")
    if config.architecture != GRAFT:
        mechanism = names()[config.architecture][1]
        _check_options(mechanism, {key: value for key, value in arguments.items() if key not in _OWN})
        return
    backbone, options = arguments.get("backbone"), arguments.get("options", {})
    if not isinstance(backbone, str) or backbone.split(".")[0] == GRAFT or not timm.is_model(backbone.split(".")[0]):
        raise ValueError(f"backbone {backbone!r} is no network of timm")
    if not isinstance(options, dict):
        raise ValueError("the mechanism's options are no mapping")
    _check_options(str(arguments.get("mechanism")), options)
    for key, value in arguments.items():
        plain = value if isinstance(value, list) else [value]
        if key != "options" and not all(isinstance(item, _Scalar) for item in plain):
            raise ValueError(f"model_args has {key}, which is no plain value")
        if any(isinstance(item, int | float) and not abs(item) <= 1 << 24 for item in plain):
            raise ValueError(f"model_args has {key} = {value}, which is beyond any network")


def _check_options(mechanism: str, options: Mapping[str, Any]) -> None:
    """Raises unless the options are the mechanism's, of the right types."""
    try:
        kind = lookup(mechanism).config
    except ValueError as error:
        raise ValueError(f"{error}; one of your own is known once its file has been imported") from error
    if surplus := sorted(set(options) - {field.name for field in dataclasses.fields(kind)}):
        raise ValueError(f"mechanism {mechanism!r} has no option {surplus[0]!r}")
    msgspec.convert(dict(options), kind)


def build_described(config: Description, *, plain: bool = False) -> nn.Module:
    """The described network with fresh weights; with `plain`, what its graft is put on."""
    arguments = {"num_classes": config.num_classes, **config.model_args}
    if config.architecture != GRAFT:
        return _created(config.architecture, arguments)
    backbone, mechanism = arguments.pop("backbone"), arguments.pop("mechanism")
    start, options = arguments.pop("start", "identity"), arguments.pop("options", {})
    told = {name: arguments.pop(name) for name in ("grid", "prefix_tokens") if name in arguments}
    if not plain:
        arguments |= {"backbone": backbone, "mechanism": mechanism, "start": start, **told, "options": options}
        return _created(GRAFT, arguments)
    return _created(str(backbone), arguments)


def _created(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()
    }
    try:
        return timm.create_model(name, **values)
    except Exception as error:  # what a network makes of arguments from a file can be of any kind
        raise ValueError(f"{name} cannot be built with the described arguments: {reason(error)}") from error
