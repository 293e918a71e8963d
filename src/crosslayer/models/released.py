"""Authors' checkpoints: read safely, recognised by their keys, loaded strictly."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from crosslayer.models import released_resnet, released_vit
from crosslayer.models.weight_file import State, read_weights, some

FAMILIES = (released_resnet, released_vit)
"""Each knows the layouts of one family: `translate(key)`, `reshaped(name, value)` and `build(state, context)`."""


def load_released(path_or_state_dict: str | Path | Mapping[str, Any], *, context: str = "per_sample") -> nn.Module:
    """Rebuilds a model from an authors' checkpoint alone and loads it strictly: every key used, none missing.

    The checkpoint may be in a container and its keys may have a common prefix (`weight_file.CONTAINERS`, `PREFIXES`).
    Backbone, depth, classes, mechanism, cell form and reduction follow from keys and shapes; the model has the
    checkpoint's dtype.

    Args:
        path_or_state_dict: a file, read without running code from it (`weights_only`), or what it holds.
        context: for DLA checkpoints, `per_sample` (the paper's definition) or `first_sample`, which reproduces the
            released code's fault: every image of a batch refreshed with the context of the first one.

    Raises:
        ValueError: a file that cannot be read as weights, or a state dict that no known released model has; the
            sentence names the keys.
    """
    state = read_weights(path_or_state_dict).state
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
