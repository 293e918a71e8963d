"""Networks saved in a folder or on the Hugging Face Hub: `config.json` rebuilds them, `model.safetensors` fills them.

What is read may come from anywhere: nothing is built before config.json describes a network (`description.py`) whose
outline, built without memory, has the names and shapes of model.safetensors; no code of it is run.
"""

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from crosslayer.errors import FailedError, reason
from crosslayer.files import whole_file, write_json, write_text
from crosslayer.models.description import build_described, checked_description, describe
from crosslayer.models.grafting import GRAFT
from crosslayer.models.model_card import model_card

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_MOST_NUMBERS = 1 << 34
"""Numbers of the largest network that is built."""


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
    config = describe(model, class_names)
    asked = {"mean": mean, "std": std, "crop_pct": crop, "interpolation": interpolation}
    images = {key: value for key, value in asked.items() if value is not None}
    if image_size is not None:
        images["input_size"] = (config["pretrained_cfg"]["input_size"][0], image_size, image_size)
    config["pretrained_cfg"] |= images
    content = checked_description(json.dumps(config).encode(), "what was asked to be saved")
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    _check_same(
        _shapes(build_described(content)), _shapes_of(weights), "the network was changed after it was made: its"
    )
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
    config = checked_description(config_file.read_bytes(), str(config_file))
    held = _header(weights_file)
    where = f"{weights_file} does not fit its {CONFIG}: its"
    with torch.device("meta"):
        outline = _shapes(build_described(config, plain=True))
    if config.architecture == GRAFT:
        held_of_backbone = {key: shape for key, shape in held.items() if key in outline}
        _check_same(outline, held_of_backbone, where)
    else:
        _check_same(outline, held, where)
    model = build_described(config)
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
