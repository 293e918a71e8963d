"""Networks saved in a folder or on the Hugging Face Hub: `config.json` rebuilds them, `model.safetensors` fills them.

The form is timm's, so that `timm.create_model("hf-hub:OWNER/NAME", pretrained=True)` reads it too once crosslayer is
imported: `architecture` is a name of timm's registry, `model_args` what it is called with, `pretrained_cfg` what images
it takes, `label_names` its classes. A graft's architecture is `crosslayer_graft`.

What is read may come from anywhere: nothing is built before config.json has the form below and its network, built
without memory, has the names and shapes of model.safetensors; no code of it is run.
"""

import dataclasses
import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from crosslayer.errors import FailedError, reason
from crosslayer.files import whole_file, write_json, write_text
from crosslayer.mechanisms import lookup
from crosslayer.models.grafting import GRAFT
from crosslayer.models.model_card import model_card
from crosslayer.models.timm_registry import announce, names

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_MOST_NUMBERS = 1 << 34
"""Numbers of the largest network that is built."""
_Scalar = bool | int | float | str | None


class ImagesConfig(msgspec.Struct, frozen=True, omit_defaults=False):
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


class Config(msgspec.Struct, frozen=True):
    """What config.json holds."""

    architecture: str
    num_classes: int
    pretrained_cfg: ImagesConfig
    model_args: dict[str, _Scalar | list[Any] | dict[str, Any]] = {}
    label_names: tuple[str, ...] | None = None
    num_features: int | None = None
    global_pool: str | None = None

    def __post_init__(self) -> None:
        if self.label_names is not None and len(self.label_names) != self.num_classes:
            raise ValueError(f"{len(self.label_names)} label_names are given for {self.num_classes} classes")


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    crop: float | None = None,
    interpolation: str | None = None,
    summary: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> None:
    """Writes a network into a folder, all of it or nothing: config.json, model.safetensors, README.md.

    Args:
        model: made by `create_model`, `load_released`, `from_pretrained`, or by `graft` from one of
            `timm.create_model`'s.
        folder: made if it is not there; files of these names in it are replaced.
        class_names: in the classifier's order [default: what the network was loaded with].
        mean: of every channel of the training images, whose pixels go from 0 to 1 [default: the network's].
        std: their standard deviation.
        image_size: side of the square images in pixels.
        crop: share of the shorter side that is looked at, in the centre.
        interpolation: `bilinear` or `bicubic`.
        summary: a run's summary.json, for the model card.
        name: what the card says that the network is loaded by [default: the folder].

    Raises:
        ValueError: a network that its description does not rebuild, or facts that contradict it.
        FailedError: a file that could not be written.
    """
    config = _config_of(model, class_names)
    asked = {"mean": mean, "std": std, "crop_pct": crop, "interpolation": interpolation}
    images = {key: value for key, value in asked.items() if value is not None}
    if image_size is not None:
        images["input_size"] = (config["pretrained_cfg"]["input_size"][0], image_size, image_size)
    config["pretrained_cfg"] |= images
    content = _checked(json.dumps(config).encode(), "what was asked to be saved")
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    _check_same(_shapes(_build(content)), _shapes_of(weights), "the network was changed after it was made: its")
    packed = save({key: value.clone() for key, value in weights.items()}, {"format": "pt"})
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder")
    text = model_card(config, summary, name or str(folder))
    with whole_file(folder / WEIGHTS) as file:
        file.write(packed)
    write_text(folder / CARD, text)
    write_json(folder / CONFIG, config)


def from_pretrained(
    source: str | Path, *, revision: str | None = None, token: str | None = None, cache_dir: str | Path | None = None
) -> nn.Module:
    """The network of a folder that `save_pretrained` wrote, or of a repository on the Hugging Face Hub.

    Its `pretrained_cfg` has `label_names`, `mean`, `std`, `input_size`, `crop_pct` and `interpolation`.

    Args:
        source: a folder, or OWNER/NAME.
        revision: branch, tag or commit, of a repository.
        token: of a private repository [default: the one that is logged in].
        cache_dir: where downloads are kept [default: the hub's own].

    Raises:
        ValueError: there is neither, or its files are no network of crosslayer's; the sentence says which and why.
        FailedError: a download that failed.
    """
    config_file, weights_file = _files(source, revision, token, cache_dir)
    config = _checked(config_file.read_bytes(), str(config_file))
    held = _header(weights_file)
    where = f"{weights_file} does not fit its {CONFIG}: its"
    with torch.device("meta"):
        outline = _shapes(_build(config, plain=True))
    if config.architecture == GRAFT:
        held_of_backbone = {key: shape for key, shape in held.items() if key in outline}
        _check_same(outline, held_of_backbone, where)
    else:
        _check_same(outline, held, where)
    model = _build(config)
    _check_same(_shapes(model), held, where)
    state = load_file(weights_file)
    kinds = {value.dtype for value in state.values() if value.is_floating_point()}
    model = model.to(kinds.pop()) if len(kinds) == 1 else model
    model.load_state_dict(state)
    images = msgspec.to_builtins(config.pretrained_cfg, builtin_types=(tuple,))
    given = {key: value for key, value in images.items() if value is not None}
    known = {**(vars(model).get("pretrained_cfg") or {}), **given, "label_names": config.label_names}
    vars(model)["pretrained_cfg"] = vars(model)["default_cfg"] = known  # where timm keeps them
    return model


def push_to_hub(
    model: nn.Module,
    repository: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "Add a network of crosslayer",
    **facts: Any,
) -> str:
    """Saves a network in a repository of the Hugging Face Hub, in one commit; returns the commit's address.

    Args:
        model: as for `save_pretrained`.
        repository: OWNER/NAME; made if it is not there.
        private: of a repository that is made.
        token: with the right to write [default: the one that is logged in].
        message: of the commit.
        facts: as for `save_pretrained`.

    Raises:
        ValueError: as `save_pretrained`, or no OWNER/NAME; nothing was sent.
        FailedError: the hub could not be reached, or it refused.
    """
    check_repository(repository)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, **{"name": repository, **facts})
        return upload_to_hub(Path(folder), repository, private=private, token=token, message=message)


def check_repository(name: str) -> None:
    """Raises ValueError unless a name is OWNER/NAME."""
    if not _REPOSITORY.fullmatch(name):
        raise ValueError(f"{name!r} is no repository's name; write it as OWNER/NAME")


def upload_to_hub(
    folder: Path,
    repository: str,
    *,
    private: bool,
    message: str,
    token: str | None = None,
    repo_type: str = "model",
    space_sdk: str | None = None,
) -> str:
    """Puts a folder into a repository, which is made if it is not there, in one commit; returns the commit's address.

    Raises:
        FailedError: the hub could not be reached, or it refused.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="crosslayer")
    try:
        api.create_repo(repository, private=private, exist_ok=True, repo_type=repo_type, space_sdk=space_sdk)
        return str(
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message, repo_type=repo_type)
        )
    except Exception as error:  # the hub's client and what it stands on raise many kinds
        raise FailedError(f"cannot push to {repository}: {reason(error)}") from error


def _config_of(model: nn.Module, class_names: Sequence[str] | None) -> dict[str, Any]:
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
    images = {key: known[key] for key in msgspec.structs.asdict(ImagesConfig()) if known.get(key) is not None}
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


def _checked(content: bytes, where: str) -> Config:
    """A description that is one of crosslayer's networks'."""
    try:
        config = msgspec.json.decode(content, type=Config)
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


def _check_arguments(config: Config) -> None:
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


def _build(config: Config, *, plain: bool = False) -> nn.Module:
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


def _files(
    source: str | Path, revision: str | None, token: str | None, cache_dir: str | Path | None
) -> tuple[Path, Path]:
    """config.json and model.safetensors, on this machine."""
    folder = Path(source)
    if folder.is_dir():
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} holds no saved network: there is no {name}")
        return folder / CONFIG, folder / WEIGHTS
    if not _REPOSITORY.fullmatch(str(source)):
        raise ValueError(f"there is no folder {str(source)!r}, and it is no OWNER/NAME of a repository")
    from huggingface_hub import hf_hub_download

    def fetched(name: str) -> Path:
        try:
            return Path(hf_hub_download(str(source), name, revision=revision, token=token, cache_dir=cache_dir))
        except Exception as error:  # the hub's client and what it stands on raise many kinds
            raise FailedError(
                f"there is no folder {str(source)!r}, and {name} of the repository cannot be had: {reason(error)}"
            ) from error

    return fetched(CONFIG), fetched(WEIGHTS)


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of what a weights file holds, by name."""
    try:
        with safe_open(file, "pt") as opened:
            return {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read as safetensors: {reason(error)}") from error


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return _shapes_of(model.state_dict())


def _shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def _check_same(described: Mapping[str, Any], held: Mapping[str, Any], what: str) -> None:
    """Raises ValueError unless two networks have tensors of the same names and shapes, and not too many numbers."""
    if differing := sorted(set(described) ^ set(held)):
        raise ValueError(
            f"{what} tensors are others than its description's ({differing[0]} and {len(differing) - 1} more)"
        )
    if wrong := [key for key, shape in described.items() if shape != held[key]]:
        key = wrong[0]
        raise ValueError(f"{what} {key} is {list(held[key])}, and its description's {list(described[key])}")
    if sum(map(math.prod, described.values())) > _MOST_NUMBERS:
        raise ValueError(f"{what} tensors have more than {_MOST_NUMBERS:,} numbers")
