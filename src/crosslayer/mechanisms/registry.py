"""Mechanisms by name: how a file announces one, and how it is found."""

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from crosslayer.mechanisms.interface import HOOKS, Mechanism


@dataclasses.dataclass(frozen=True)
class Paper:
    """Where a mechanism was published, and what it is by default; `crosslayer list --papers` prints it.

    Args:
        arxiv: number.
        year: of the first version.
        reads: what it looks at.
        writes: what becomes of it.
        state: what is kept from block to block.
        block: parameters of one block as a formula in Python: c channels, k = ECA's kernel size for c, T blocks.
        stage: parameters of a stage besides T times those; negative, where the first blocks have fewer.
        results: published ones in vision, or that there are none.
    """

    arxiv: str
    year: int
    reads: str
    writes: str
    state: str
    block: str
    stage: str = "0"
    results: str = "none known"


class Registration(NamedTuple):
    """A mechanism's class, the dataclass of its options, the file that announces it, and its paper."""

    mechanism: type[Mechanism]
    config: type
    module: str
    paper: Paper | None = None


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """For a mechanism without options."""


_REGISTRY: dict[str, Registration] = {}


def register(name: str, mechanism: type[Mechanism], config: type = NoOptions, paper: Paper | None = None) -> None:
    """Announces a mechanism under `name`; the last line of its file.

    Raises:
        ValueError: the name is taken, or a hook takes other arguments than it is called with.
    """
    if name in _REGISTRY:
        raise ValueError(f"mechanism {name!r} is already registered by {_REGISTRY[name].module}")
    for hook in HOOKS:
        called, taken = (inspect.signature(getattr(kind, hook)) for kind in (Mechanism, mechanism))
        try:
            taken.bind(*called.parameters)
        except TypeError:
            raise ValueError(
                f"mechanism {name!r}: its {hook} takes ({', '.join(taken.parameters)}), and is called with "
                f"({', '.join(called.parameters)})"
            ) from None
    module = mechanism.__module__ if config is NoOptions else config.__module__
    _REGISTRY[name] = Registration(mechanism, config, module, paper)


def registered() -> list[str]:
    """Names of all mechanisms, sorted."""
    _discover()
    return sorted(_REGISTRY)


def lookup(name: str) -> Registration:
    """The mechanism called `name`.

    Raises:
        ValueError: there is none; the closest names are offered.
    """
    _discover()
    if name not in _REGISTRY:
        raise ValueError(unknown_name("mechanism", name, _REGISTRY))
    return _REGISTRY[name]


def configure(name: str, options: dict[str, Any]) -> Any:
    """The options of mechanism `name` as its dataclass.

    Raises:
        ValueError: an unknown mechanism, an option it does not have, or a value that its dataclass refuses.
    """
    config = lookup(name).config
    known = [field.name for field in dataclasses.fields(config)]
    for option in options:
        if option not in known:
            offered = ", ".join(known) if known else "none at all"
            raise ValueError(f"mechanism {name!r} has no option {option!r}; it has: {offered}")
    return config(**options)


def check_reduction(value: int, name: str = "reduction") -> None:
    """Raises ValueError for a number that channels cannot be divided by."""
    if value < 1:
        raise ValueError(f"{name} is {value}; it divides the channels and must be at least 1")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence that says a name is unknown and offers the closest."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    offer = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(sorted(known))}"
    return f"unknown {kind} {name!r}; {offer}"


def _discover() -> None:
    """Imports every file of this folder; each announces what it holds."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{package}.{module.name}")
