"""Authors' checkpoints: which model a released state dict belongs to, and its keys in this project's names."""

import pickle
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crosslayer.models.factory import create_model
from crosslayer.models.resnet import CIFARResNet

State = Mapping[str, Tensor]

# Where a block or its attention stands in the four layouts that were released, in the order tried.
#   DLA      stages.0.layers.1.conv1   stages.0.attention.1.…   stages.0.lstm.…   stages.0.excite.…
#   DIANet   layer1.ModuleList.1.conv1 layer1.lstm.…
#   MRLA-B   stages.0.1.conv1          stages.0.1.mrla.…
#   others   layer1.1.conv1            layer1.1.se.…
_STAGE = re.compile(r"(?:stages\.(?P<zero>\d+)|layer(?P<one>\d+))\.(?P<rest>.+)")
_BLOCK = re.compile(r"(?:layers\.|attention\.|ModuleList\.)?(?P<block>\d+)\.(?P<rest>.+)")

_IN_BLOCK = [
    (r"(conv\d|bn\d)\.(.+)", r"blocks.{t}.\1.\2"),
    (r"downsample\.(.+)", r"blocks.{t}.shortcut.\1"),
    (r"se\.fc\.([02])\.weight", r"mechanism.gates.{t}.\1.weight"),
    (r"eca\.conv\.weight", r"mechanism.gates.{t}.weight"),
    (r"(?:mrla|layer_attention)\.lambda_t", r"mechanism.lambdas.{t}"),
    (
        r"(?:mrla\.mrla|layer_attention\.layer_attention)\.Wq\.weight",
        r"mechanism.projections.{t}.query.weight",
    ),
    (r"(?:mrla\.mrla|layer_attention\.layer_attention)\.Wk\.weight", r"mechanism.projections.{t}.key.weight"),
    (
        r"(?:mrla\.mrla|layer_attention\.layer_attention)\.Wv\.weight",
        r"mechanism.projections.{t}.value.weight",
    ),
    (r"bn_(?:mrla|layer_attention)\.(.+)", r"mechanism.branches.{t}.0.\1"),
]
_IN_STAGE = [
    (r"lstm\.w_ih\.0\.seq\.([02]\.(?:weight|bias))", r"mechanism.cell.of_input.\1"),
    (r"lstm\.w_hh\.0\.seq\.([02]\.(?:weight|bias))", r"mechanism.cell.of_hidden.\1"),
    (r"excite\.weight", r"mechanism.stage_kernel"),
]
_CELL_OF_GATES = {3: "released", 4: "dia"}
_OUTSIDE = [(r"((?:conv1|bn1|fc)\..+)", r"\1")]


def load_released(path_or_state_dict: str | Path | Mapping[str, Any], *, context: str = "per_sample") -> CIFARResNet:
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
    names = {key: translated for key in state if (translated := translate(key)) is not None}
    unknown = sorted(set(state) - set(names))
    if unknown or not names:
        raise ValueError(f"not a released model that crosslayer knows; unknown keys: {some(unknown)}")
    ours = {name: reshaped(name, state[key]) for key, name in names.items()}
    model = build(ours, context)
    expected = model.state_dict()
    missing, surplus = sorted(set(expected) - set(ours)), sorted(set(ours) - set(expected))
    if missing or surplus or len(ours) < len(names):
        raise ValueError(
            f"the checkpoint is not one whole released model; missing: {some(missing)}; surplus: {some(surplus)}"
        )
    wrong = [name for name in expected if expected[name].shape != ours[name].shape]
    if wrong:
        raise ValueError(f"the checkpoint's tensors have shapes no released model has: {some(wrong)}")
    model = model.to(ours["fc.weight"].dtype)
    model.load_state_dict(ours)
    return model


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


def translate(key: str) -> str | None:
    """A released key in this project's names, or None for one that no released layout has."""
    stage = _STAGE.fullmatch(key)
    if stage is None:
        return rename(key, _OUTSIDE)
    index = int(stage["zero"]) if stage["zero"] is not None else int(stage["one"]) - 1
    block = _BLOCK.fullmatch(stage["rest"])
    inner = (
        rename(stage["rest"], _IN_STAGE)
        if block is None
        else (name := rename(block["rest"], _IN_BLOCK)) and name.format(t=block["block"])
    )
    return inner and f"stages.{index}.{inner}"


def rename(key: str, rules: list[tuple[str, str]]) -> str | None:
    """The first rule's replacement that fits the whole key."""
    for pattern, replacement in rules:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, replacement, key)
    return None


def reshaped(name: str, value: Tensor) -> Tensor:
    """λ is stored as c×1×1; here it is a vector."""
    return value.flatten() if ".lambdas." in name else value


def build(ours: State, context: str) -> CIFARResNet:
    """The model that translated keys and shapes describe."""
    blocks = Counter(m[1] for key in ours if (m := re.fullmatch(r"stages\.(\d+)\.blocks\.\d+\.conv1\.weight", key)))
    if sorted(blocks) != ["0", "1", "2"] or len(set(blocks.values())) != 1 or "fc.weight" not in ours:
        counts = ", ".join(f"stage {stage}: {count}" for stage, count in sorted(blocks.items())) or "none"
        raise ValueError(f"not a released CIFAR ResNet: three stages of equal depth and 'fc.weight', blocks {counts}")
    bottleneck = any(".conv3." in key for key in ours)
    m = blocks["0"]
    backbone = f"cifar_resnet{9 * m + 2}" if bottleneck else f"cifar_resnet{6 * m + 2}_basic"
    mechanism, options = mechanism_of(ours, context)
    return create_model(backbone, mechanism, num_classes=ours["fc.weight"].shape[0], **options)


def mechanism_of(ours: State, context: str) -> tuple[str, dict[str, Any]]:
    """Mechanism and options that the keys of the first stage describe."""
    parts = {key.split(".mechanism.")[1].split(".")[0] for key in ours if key.startswith("stages.0.mechanism.")}
    options: dict[str, Any] = {}
    if "cell" in parts:
        squeezed, channels = ours["stages.0.mechanism.cell.of_input.0.weight"].shape
        gates = ours["stages.0.mechanism.cell.of_input.2.weight"].shape[0] // channels
        if gates not in _CELL_OF_GATES:
            raise ValueError(
                f"a cell with {gates} gates is none that was released (3: DSU, 4: DIA): 'lstm.w_ih.0.seq.2.weight'"
            )
        options = {"cell": _CELL_OF_GATES[gates], "reduction": channels // squeezed}
    if parts == {"cell"}:
        return "dianet", options
    if "cell" in parts and "lambdas" in parts:
        return "dla_l", options | {"context": context, "stage_convolution": "stage_kernel" in parts}
    if "cell" in parts:
        return "dla_b", options | {"context": context}
    if "lambdas" in parts:
        return "mrla_l", {}
    if "projections" in parts:
        return "mrla_b", {}
    if "gates" not in parts:
        return "none", {}
    if "stages.0.mechanism.gates.0.weight" in ours:
        return "eca", {}
    squeezed, channels = ours["stages.0.mechanism.gates.0.0.weight"].shape
    return "se", {"reduction": channels // squeezed}


def some(keys: list[str]) -> str:
    """The first few keys of a list, for a sentence."""
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "") if keys else "none"
