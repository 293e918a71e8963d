"""A backbone's weights from a local file."""

from pathlib import Path

import torch
from torch import nn

from crosslayer.console import errors
from crosslayer.errors import UsageError
from crosslayer.models.weight_file import State, common_prefix, read_weights, some


def load_weights(model: nn.Module, file: str, classifiers: tuple[str, ...]) -> None:
    """Loads a state dict, read without running code from it, into a network.

    Tensors are matched by name; where the names are others but number, shapes and order of the tensors are the
    same, in order. A classifier that the file lacks or has for other classes stays as it is, which a line says.

    Args:
        model: a network of timm.
        file: in any format, container and under any prefix that `read_weights` knows.
        classifiers: names of the network's classifiers.

    Raises:
        UsageError: the file cannot be read, or is of another network.
    """
    try:
        if not Path(file).exists():
            raise ValueError("there is no such file")
        given, note = read_weights(file)
        ours = model.state_dict()
        given = {common_prefix(list(ours)) + name: value for name, value in given.items()}
        matched = by_name(given, ours, classifiers) or in_order(given, ours, classifiers)
        if matched is None:
            raise ValueError(difference(given, ours, classifiers))
        check_numbers(matched, ours)
    except ValueError as error:
        raise UsageError(f"--weights {file}: {error}") from error
    model.load_state_dict({**ours, **matched})
    fresh = sorted(name for name in ours if _of_classifier(name, classifiers) and name not in matched)
    for said in (note, f"the classifier begins anew, the file has none of these classes: {some(fresh)}" * bool(fresh)):
        if said:
            errors.print(f"--weights {file}: {said}")


def check_numbers(matched: State, ours: State) -> None:
    """Raises ValueError for tensors whose kind of number is another, or that hold NaN or infinity."""
    for name, value in matched.items():
        if value.is_floating_point() != ours[name].is_floating_point() or value.is_complex():
            raise ValueError(f"its {name!r} holds {_type(value)}, not {_type(ours[name])}")
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            raise ValueError(f"its {name!r} holds NaN or infinity; the training that wrote it had failed")


def _type(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def by_name(given: State, ours: State, classifiers: tuple[str, ...]) -> State | None:
    """Tensors under our names, if all but classifiers and counters of batches are there in our shapes."""
    body = {name for name in ours if not _may_lack(name, classifiers)}
    if not body <= set(given) or any(given[name].shape != ours[name].shape for name in body):
        return None
    if any(not _may_lack(name, classifiers) for name in set(given) - set(ours)):
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
    return fits if all(name in fits or _of_classifier(name, classifiers) for name in names) else None


def _of_classifier(name: str, classifiers: tuple[str, ...]) -> bool:
    """Whether a tensor belongs to a classifier."""
    return name.startswith(tuple(f"{classifier}." for classifier in classifiers))


def _may_lack(name: str, classifiers: tuple[str, ...]) -> bool:
    """Whether a file may do without a tensor."""
    return name.endswith("num_batches_tracked") or _of_classifier(name, classifiers)


def difference(given: State, ours: State, classifiers: tuple[str, ...]) -> str:
    """Why neither rule applies, in words."""
    body = [name for name in ours if not _may_lack(name, classifiers)]
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
