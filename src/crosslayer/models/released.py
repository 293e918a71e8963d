"""Authors' checkpoints: read safely, recognised by their keys, loaded strictly."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from crosslayer.models import released_resnet, released_vit

State = Mapping[str, Tensor]
FAMILIES = (released_resnet, released_vit)
"""Each knows the layouts of one family: `translate(key)`, `reshaped(name, value)` and `build(state, context)`."""


def load_released(path_or_state_dict: str | Path | Mapping[str, Any], *, context: str = "per_sample") -> nn.Module:
    """Rebuilds a model from an authors' checkpoint alone and loads it strictly: every key used, none missing.

    The checkpoint may be wrapped in {"state_dict": …} and its keys may begin with "module.". Backbone, depth,
    classes, mechanism, cell form and reduction follow from keys and shapes; the model has the checkpoint's dtype.

    Args:
        path_or_state_dict: a file, read without running code from it (`weights_only`), or what it holds.
        context: for DLA checkpoints, `per_sample` (the paper's definition) or `first_sample`, which reproduces the
            released code's fault: every image of a batch refreshed with the context of the first one.

    Raises:
        ValueError: a file that cannot be read as weights, or a state dict that no known released model has; the
            sentence names the keys.
    """
    state = unwrap(read_weights(path_or_state_dict))
    family, names = recognise(state)
    ours = {name: family.reshaped(name, state[key]) for key, name in names.items()}
    model = family.build(ours, context)
    check_whole(model.state_dict(), ours, len(names))
    model = model.to(next(value.dtype for value in ours.values() if value.is_floating_point()))
    model.load_state_dict(ours)
    return model


def recognise(state: State) -> tuple[ModuleType, dict[str, str]]:
    """The family whose layout a checkpoint has, and this project's name for each of its keys.

    Raises:
        ValueError: no family knows all the keys.
    """
    translations = [{key: family.translate(key) for key in state} for family in FAMILIES]
    unknown = [sorted(key for key, name in names.items() if name is None) for names in translations]
    best = min(range(len(FAMILIES)), key=lambda i: len(unknown[i]))
    if unknown[best] or not state:
        raise ValueError(f"not a released model that crosslayer knows; unknown keys: {some(unknown[best])}")
    return FAMILIES[best], {key: name for key, name in translations[best].items() if name is not None}


def check_whole(expected: State, ours: State, keys: int) -> None:
    """Raises ValueError unless the two states have the same names and shapes, each from a key of its own."""
    missing, surplus = sorted(set(expected) - set(ours)), sorted(set(ours) - set(expected))
    if missing or surplus or len(ours) < keys:
        raise ValueError(
            f"the checkpoint is not one whole released model; missing: {some(missing)}; surplus: {some(surplus)}"
        )
    wrong = [name for name in expected if expected[name].shape != ours[name].shape]
    if wrong:
        raise ValueError(f"the checkpoint's tensors have shapes no released model has: {some(wrong)}")


def read_weights(source: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """What a checkpoint file holds, or the mapping itself."""
    if isinstance(source, Mapping):
        return source
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {str(source)!r}") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{str(source)!r} cannot be read as a weights-only checkpoint: {reason}") from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{str(source)!r} holds a {type(loaded).__name__}, not a state dict")
    return loaded


def unwrap(loaded: Mapping[str, Any]) -> State:
    """The state dict within {"state_dict": …}, without data-parallel prefixes."""
    state = loaded.get("state_dict", loaded)
    if not isinstance(state, Mapping):
        raise ValueError(f"the checkpoint's 'state_dict' is a {type(state).__name__}, not a mapping of tensors")
    other = sorted(str(key) for key, value in state.items() if not isinstance(value, Tensor))
    if other:
        raise ValueError(f"the checkpoint holds entries that are no tensors: {some(other)}")
    return {key.removeprefix("module."): value for key, value in state.items()}


def some(keys: list[str]) -> str:
    """The first few keys of a list, for a sentence."""
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "") if keys else "none"
