"""A file of weights, whoever wrote it: read without running code from it, as a plain state dict.

Formats are told by content: PyTorch's zip and the pickle before it, safetensors, and the index of weights in several
files. Objects that are no tensors (a training's options, numpy's numbers) are left unread: an empty mapping stands
where they were.
"""

import _compat_pickle
import pickletools
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

State = Mapping[str, Tensor]
CONTAINERS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
)
"""Under which names training scripts keep a network's weights; the first there counts, averaged ones before others."""
PREFIXES = ("module.", "model.", "_orig_mod.", "timm_model.", "backbone.", "encoder.", "net.", "network.")
"""What wrappers put before every name: data parallel, compiled, exponentially averaged and Lightning's networks."""
_UNREADABLE = "cannot be read as a weights-only checkpoint"


class Weights(NamedTuple):
    """A state dict, and where in the file it was if there were several."""

    state: State
    note: str = ""


def read_weights(source: str | Path | Mapping[str, Any]) -> Weights:
    """What a file holds, out of its container and without a prefix common to all names.

    Args:
        source: the file, or what such a file holds.

    Raises:
        ValueError: it cannot be read, or holds something else than a state dict; one sentence says which.
    """
    loaded: Any = source if isinstance(source, Mapping) else _read(source)
    what = "the checkpoint" if isinstance(source, Mapping) else repr(str(source))
    if not issubclass(type(loaded), Mapping | _Unread):
        raise ValueError(f"{what} holds a {type(loaded).__name__}, not a state dict")
    note = ""
    for _ in range(3):  # containers in containers; a damaged one may be its own
        if not (name := _container(loaded)):
            break
        others = [other for other in CONTAINERS if other != name and isinstance(loaded.get(other), Mapping)]
        note = note or (f"weights are taken from {name!r}, not from {some(others)}" if others else "")
        loaded, what = loaded[name], f"its {name!r}"
    _check_tensors(loaded, what)
    return Weights(_without_prefix({key: value for key, value in loaded.items() if key != "n_averaged"}), note)


def common_prefix(names: list[str]) -> str:
    """The wrappers' prefixes before all of these names."""
    prefix = ""
    while found := next((p for p in PREFIXES if names and all(name.startswith(prefix + p) for name in names)), ""):
        prefix += found
    return prefix


def _without_prefix(state: State) -> State:
    """The state dict under the names that the network within the wrappers has."""
    prefix = common_prefix(list(state))
    return {name.removeprefix(prefix): value for name, value in state.items()}


def some(keys: list[str]) -> str:
    """The first few keys of a list, for a sentence."""
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "") if keys else "none"


def _container(loaded: Any) -> str | None:
    """The name that the state dict is kept under, if it is not the mapping itself."""
    if not isinstance(loaded, Mapping):
        return None
    there = [name for name in CONTAINERS if name in loaded and not isinstance(loaded[name], Tensor)]
    return next((name for name in there if loaded[name] and isinstance(loaded[name], Mapping)), next(iter(there), None))


def _check_tensors(state: Any, what: str) -> None:
    """Raises ValueError unless it is a mapping from names to plain tensors."""
    if unread := getattr(state, "unread", None):
        raise ValueError(f"{what} {_UNREADABLE}: it is an object of {unread}; keep its state_dict() instead")
    if not isinstance(state, Mapping):
        raise ValueError(f"{what} is a {type(state).__name__}, not a mapping of tensors")
    if other := sorted(str(key) for key, value in state.items() if not (isinstance(key, str) and _is_plain(value))):
        raise ValueError(f"the checkpoint holds entries that are no tensors: {some(other)}")


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor with numbers of its own: not quantized, sparse or without memory."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_quantized or value.is_meta)


def _read(source: str | Path) -> Any:
    """What a file holds.

    Raises:
        ValueError: it cannot be read; one sentence says why.
    """
    path = Path(source)
    try:
        if path.is_dir():
            raise _ReadError("it is a directory; give the file in it")
        with path.open("rb") as file:
            start = file.read(64)
        if path.name.endswith(".index.json"):
            return _read_shards(path)
        if start.startswith(b"PK\3\4"):
            return _read_zip(path)
        if start.startswith(b"\x80"):
            return _read_pickle(path)
        if path.suffix == ".safetensors" or start[8:9] == b"{":
            return _read_safetensors(path)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {str(source)!r}") from None
    except _ReadError as error:
        raise ValueError(f"{str(source)!r} {_UNREADABLE}: {error}") from error
    except OSError as error:
        raise ValueError(f"{str(source)!r} {_UNREADABLE}: {error.strerror or 'it is damaged'}") from error
    raise ValueError(f"{str(source)!r} {_UNREADABLE}: {_foreign(start)}")


class _ReadError(Exception):
    """Why a file cannot be read."""


def _foreign(start: bytes) -> str:
    """What a file that is no weights may be instead, by how it begins."""
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it only points to a file kept in Git LFS; fetch that with git lfs pull"
    if start.lstrip().startswith(b"<"):
        return "it is a web page; download the file itself"
    return "it is neither PyTorch's nor safetensors' format, or its beginning is damaged"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, AttributeError, ValueError) as error:  # AttributeError: a type PyTorch has not
        raise _ReadError("it is truncated or damaged") from error


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _read_shards(path: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index names; they lie beside it."""
    try:
        index = msgspec.json.decode(path.read_bytes(), type=_Index)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _ReadError(f"it is no index of weights ({error})") from error
    state: dict[str, Tensor] = {}
    for file in sorted(set(index.weight_map.values())):
        if Path(file).name != file or file.endswith(".index.json"):
            raise _ReadError(f"it names {file!r}, which is no file beside it")
        loaded = _read(path.with_name(file))
        _check_tensors(loaded, repr(file))
        names = [name for name, of_file in index.weight_map.items() if of_file == file]
        if lacking := sorted(set(names) - set(loaded)):
            raise _ReadError(f"{file!r} lacks {some(lacking)}")
        state.update({name: loaded[name] for name in names})
    return state


def _read_zip(path: Path) -> Any:
    """What torch.save wrote; the checksums of its parts agree."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                raise _ReadError("it is a TorchScript program; save its state_dict() instead")
            main = next((name for name in names if name.endswith("/data.pkl")), None)
            if main is None:
                raise _ReadError("it is an archive, but not of PyTorch's")
            damaged = archive.testzip()
            with archive.open(main) as file:
                classes = _globals(file)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, zlib.error) as error:
        raise _ReadError("it is truncated or damaged") from error
    if damaged:
        raise _ReadError("it is damaged: a checksum does not agree")
    return _load(path, classes)


def _read_pickle(path: Path) -> Any:
    """What torch.save wrote before it wrote archives: a magic number, two more pickles, and then the object."""
    with path.open("rb") as file:
        try:
            classes = [name for _ in range(4) for name in _globals(file)]
        except (ValueError, IndexError, struct.error) as error:
            raise _ReadError("it is truncated or damaged, or a pickle that torch.save did not write") from error
    return _load(path, classes)


def _globals(file: Any) -> list[str]:  # a binary file; an archive's is no IO[bytes] at run time
    """All classes and functions that a pickle names, as Python 3 names them."""
    found = []
    for code, argument, _ in pickletools.genops(file):
        if code.name == "GLOBAL":
            module, name = str(argument).split(" ", 1)
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            found.append(f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}")
    return found


def _load(path: Path, classes: list[str]) -> Any:
    """torch.load, safely, with something unread for every class and function that is not safe."""
    unread: list[Any] = [(_stand_in(name), name) for name in dict.fromkeys(classes)]
    try:
        with torch.serialization.safe_globals(unread), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle makes PyTorch raise errors of nearly every kind
        known = ("torch.", "collections.")
        if foreign := sorted({name for name in classes if not name.startswith(known)}):
            raise _ReadError(f"it is damaged, or its objects need code that is not run: {some(foreign)}") from error
        raise _ReadError("it is truncated or damaged") from error


class _Unread:
    """An object that was left unread because its class is not PyTorch's."""

    unread: str

    def __init__(self, *_given: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def _stand_in(name: str) -> Any:
    """A callable that stands for a class or function and only makes an empty mapping, which pickles may fill.

    numpy's objects are no mappings, and are not filled.
    """
    if name.startswith("numpy."):
        return type(name, (_Unread,), {"unread": name})

    def new(_class: type, *_given: Any) -> OrderedDict[str, Any]:
        mapping: OrderedDict[str, Any] = OrderedDict()
        if name != "collections.defaultdict":
            vars(mapping)["unread"] = name
        return mapping

    return type(name, (), {"__new__": new})
