"""The network that a detector stands on: by name, with its weights and the normalisation they were trained with."""

from pathlib import Path
from typing import Any, NamedTuple

import timm
from torch import nn

from crosslayer.console import errors
from crosslayer.errors import FailedError
from crosslayer.mechanisms.registry import unknown_name
from crosslayer.models import create_model, graft
from crosslayer.models.released import recognise
from crosslayer.models.weight_file import State, read_weights
from crosslayer.training import checkpoint
from crosslayer.training.run_directory import RECIPE, RunDirectory
from crosslayer.training.weights import by_name, check_numbers, difference, in_order

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NEW = (".mechanism.", ".scales.")
"""Parts of a network that the weights of a plain one do without."""


class Network(NamedTuple):
    """A network and what its images are normalised with."""

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Weights(NamedTuple):
    """A state dict and what its images were normalised with, if that is known."""

    state: State
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def build_network(
    backbone: str, mechanism: str, options: dict[str, Any], *, grafted: bool, weights: str | Path | None
) -> Network:
    """A network with a mechanism, with these weights.

    Raises:
        ValueError: an unknown name or option, or weights that are of another network.
        FailedError: a download that failed.
    """
    model = _timm_network(backbone) if grafted else create_model(backbone, mechanism, num_classes=1, **options)
    known: Any = timm.get_pretrained_cfg(backbone) if grafted else None
    mean, std = (tuple(known.mean), tuple(known.std)) if known else (IMAGENET_MEAN, IMAGENET_STD)
    if grafted and mechanism != "none":
        model = graft(model, mechanism, **options)
    if weights is None:
        return Network(model, mean, std)
    found = _find_weights(str(weights))
    load_backbone(model, found.state, str(weights), classifier_names(known))
    return Network(model, found.mean or mean, found.std or std)


def _timm_network(name: str, *, pretrained: bool = False) -> nn.Module:
    """A network as timm has it.

    Raises:
        ValueError: timm has none of that name; the closest names are offered.
        FailedError: a download that failed.
    """
    if not timm.is_model(name.split(".")[0]):
        raise ValueError(unknown_name("network of timm", name, timm.list_models()))
    try:
        return timm.create_model(name, pretrained=pretrained)
    except Exception as error:
        if not pretrained:  # the hub and timm raise many kinds; without a download none of them is the user's
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FailedError(f"cannot get timm's weights of {name} ({reason}); give a file or a run instead") from error


def classifier_names(known: Any) -> tuple[str, ...]:
    """Where a network's classifiers are; in those of this project, under `fc` or `head`."""
    names = getattr(known, "classifier", None) or ("fc", "head")
    return (names,) if isinstance(names, str) else tuple(names)


def _find_weights(source: str) -> Weights:
    """The weights of a run of crosslayer, of a file, or of a network of timm, whichever `source` names.

    Raises:
        ValueError: it names none of these.
        FailedError: a download that failed, or a damaged checkpoint.
    """
    if Path(source).is_dir():
        return _weights_of_run(source)
    if Path(source).is_file():
        return Weights(_read_file(source))
    if not timm.is_model(source.split(".")[0]):
        raise ValueError(
            f"weights {source!r}: there is no such run directory, no such file, and no such network of timm"
        )
    network: Any = _timm_network(source, pretrained=True)
    return Weights(network.state_dict(), *(tuple(network.pretrained_cfg[name]) for name in ("mean", "std")))


def _read_file(source: str) -> State:
    """The state dict in a file; a line says which one where there are several."""
    state, note = read_weights(source)
    if note:
        errors.print(f"weights {source}: {note}")
    return state


def _weights_of_run(folder: str) -> Weights:
    """The last weights of a run that trained a classifier, and its data's normalisation.

    Raises:
        ValueError: there is no run, it has no checkpoint, or it trained a detector.
        FailedError: its files were damaged.
    """
    run = RunDirectory(folder)
    _, recipe, facts = run.read()
    if recipe.task != "classification":
        raise ValueError(f"weights {folder!r}: this run's {RECIPE} is a detector's; a classifier's run is needed")
    state = checkpoint.load_checkpoint(checkpoint.find_checkpoint(run.checkpoints, "last"))
    return Weights(state["model"], facts.mean, facts.std)


def load_backbone(model: nn.Module, given: State, source: str, classifiers: tuple[str, ...]) -> None:
    """Loads weights of the whole network, or of the plain one under a mechanism that stays fresh.

    Raises:
        ValueError: they are of another network.
    """
    ours = model.state_dict()
    plain = {name: value for name, value in ours.items() if not any(part in name for part in NEW)}
    found = None
    for names in (given, _in_our_names(given)):
        found = found or by_name(names, ours, classifiers) or by_name(names, plain, classifiers)
    found = found or in_order(given, plain, classifiers)
    if found is None:
        raise ValueError(f"weights {source!r}: {difference(_in_our_names(given) or given, ours, classifiers)}")
    try:
        check_numbers(found, ours)
    except ValueError as error:
        raise ValueError(f"weights {source!r}: {error}") from error
    model.load_state_dict({**ours, **found})


def _in_our_names(given: State) -> State:
    """An authors' or timm's checkpoint of a ResNet under this project's names; empty for another."""
    try:
        family, names = recognise(given)
    except ValueError:
        return {}
    return {name: family.reshaped(name, given[key]) for key, name in names.items()}
