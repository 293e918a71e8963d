"""A backbone's weights from a local file."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from crosslayer.errors import UsageError
from crosslayer.models.released import read_weights, unwrap

State = Mapping[str, Tensor]


def load_weights(model: nn.Module, file: str, classifiers: tuple[str, ...]) -> None:
    """Loads a state dict, read without running code from it, into a network.

    Tensors are matched by name; where the names are others but number, shapes and order of the tensors are the
    same, in order. A classifier that the file lacks or has for other classes stays as it is.

    Args:
        model: a network of timm.
        file: .pt, .pth or .safetensors; may be wrapped in {"state_dict": …}, and keys may begin with "module.".
        classifiers: names of the network's classifiers.

    Raises:
        UsageError: the file cannot be read, or is of another network.
    """
    try:
        given = read_state(file)
    except (ValueError, SafetensorError) as error:
        raise UsageError(f"--weights {file}: {error}") from error
    ours = model.state_dict()
    matched = by_name(given, ours, classifiers) or in_order(given, ours, classifiers)
    if matched is None:
        raise UsageError(f"--weights {file}: {difference(given, ours, classifiers)}")
    model.load_state_dict({**ours, **matched})


def read_state(file: str) -> State:
    """What the file holds."""
    if not Path(file).is_file():
        raise ValueError("there is no such file")
    return unwrap(load_file(file) if file.endswith(".safetensors") else read_weights(file))


def by_name(given: State, ours: State, classifiers: tuple[str, ...]) -> State | None:
    """Tensors under our names, if all but classifiers and counters of batches are there in our shapes."""
    body = {name for name in ours if not may_lack(name, classifiers)}
    if not body <= set(given) or any(given[name].shape != ours[name].shape for name in body):
        return None
    if any(not may_lack(name, classifiers) for name in set(given) - set(ours)):
        return None
    return {name: value for name, value in given.items() if name in ours and value.shape == ours[name].shape}


def in_order(given: State, ours: State, classifiers: tuple[str, ...]) -> State | None:
    """Tensors under our names, if there are as many, of our shapes in our order but for classifiers."""
    theirs = {name: value for name, value in given.items() if not name.endswith("num_batches_tracked")}
    names = [name for name in ours if not name.endswith("num_batches_tracked")]
    if len(theirs) != len(names):
        return None
    pairs = list(zip(names, theirs.values(), strict=True))
    fits = {name: value for name, value in pairs if value.shape == ours[name].shape}
    return fits if all(name in fits or of_classifier(name, classifiers) for name in names) else None


def of_classifier(name: str, classifiers: tuple[str, ...]) -> bool:
    """Whether a tensor belongs to a classifier."""
    return name.startswith(tuple(f"{classifier}." for classifier in classifiers))


def may_lack(name: str, classifiers: tuple[str, ...]) -> bool:
    """Whether a file may do without a tensor."""
    return name.endswith("num_batches_tracked") or of_classifier(name, classifiers)


def difference(given: State, ours: State, classifiers: tuple[str, ...]) -> str:
    """Why neither rule applies, in words."""
    body = [name for name in ours if not may_lack(name, classifiers)]
    missing = [name for name in body if name not in given]
    wrong = [name for name in body if name in given and given[name].shape != ours[name].shape]
    if len(missing) < len(body) and (missing or wrong):
        name = (missing + wrong)[0]
        what = (
            f"it has no {name!r}" if missing else f"its {name!r} is {[*given[name].shape]}, not {[*ours[name].shape]}"
        )
    elif not missing:
        what = f"it has {next(name for name in given if name not in ours)!r}, which the network has not"
    else:
        what = "neither names nor shapes in order agree"
    return f"these are another network's weights: {what} ({len(given)} tensors, the network has {len(ours)})"
