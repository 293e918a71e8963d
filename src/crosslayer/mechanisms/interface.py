"""What a mechanism is: the hooks through which a block speaks to it, and how a file announces one."""

import dataclasses
import difflib
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor, nn

from crosslayer.ops.shapes import InputMap, Map, ReadMap, Taps

StateT = TypeVar("StateT")


@dataclasses.dataclass(frozen=True)
class StageShape:
    """What a mechanism is told of the stage it is built for.

    Args:
        index: position of the stage in the network, from 0.
        depth: number of blocks, T.
        channels: channels of every block's output (and of its residual branch).
        tap_channels: channels of each activation that `gate` is offered; the last is the residual branch.
    """

    index: int
    depth: int
    channels: int
    tap_channels: tuple[int, ...]


class Mechanism(nn.Module, Generic[StateT]):
    """One mechanism in one stage of a network; it owns the parameters of all the stage's blocks.

    A block calls every hook and knows no mechanism by name; each hook defaults to identity. State is a value: a
    NamedTuple of tensors and lists of tensors that is passed in and returned, never kept on `self`, which is what
    lets a network compile, export, run data parallel and recompute activations.
    """

    extra_in: int = 0
    """Channels that `read` adds to what a block's first convolution sees."""
    extra_out: int = 0
    """Channels of the map that `finish` hands on and that joins the classifier at the network's end."""

    def __init__(self, shape: StageShape, config: Any) -> None:
        super().__init__()

    def start(self, x: InputMap, carry: Tensor | None) -> StateT:
        """The stage begins, with its input and what the stage before handed on."""
        return None  # type: ignore[return-value]  # a mechanism without state

    def read(self, t: int, x: InputMap, state: StateT) -> ReadMap:
        """What block t convolves."""
        return x

    def gate(self, t: int, taps: Taps, state: StateT) -> tuple[Map, StateT]:
        """Block t's residual branch (the last tap) before it is added to the shortcut."""
        return taps[-1], state

    def merge(self, t: int, out: Map, shortcut: Map, state: StateT) -> tuple[Map, StateT]:
        """Block t's output, after its last activation."""
        return out, state

    def finish(self, state: StateT) -> Tensor | None:
        """The stage ends: what the next one (or, with `extra_out`, the classifier) receives."""
        return None

    def attention(self, state: StateT) -> Tensor | None:
        """Attention of block l on block m, batch × heads × l × m, from a finished stage's state, if it has any."""
        return None


class Registration(NamedTuple):
    """A mechanism's class and the dataclass of its options."""

    mechanism: type[Mechanism]
    config: type


_REGISTRY: dict[str, Registration] = {}


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """For a mechanism without options."""


def register(name: str, mechanism: type[Mechanism], config: type = NoOptions) -> None:
    """Announces a mechanism under `name`; the last line of its file.

    Raises:
        ValueError: the name is taken.
    """
    if name in _REGISTRY:
        raise ValueError(f"mechanism {name!r} is already registered by {_REGISTRY[name].mechanism.__module__}")
    _REGISTRY[name] = Registration(mechanism, config)


def registered() -> list[str]:
    """Names of all mechanisms, sorted."""
    return sorted(_REGISTRY)


def lookup(name: str) -> Registration:
    """The mechanism called `name`.

    Raises:
        ValueError: there is none; the closest names are offered.
    """
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


def unknown_name(kind: str, name: str, known: Any) -> str:
    """One sentence that says a name is unknown and offers the closest."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    offer = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(sorted(known))}"
    return f"unknown {kind} {name!r}; {offer}"
