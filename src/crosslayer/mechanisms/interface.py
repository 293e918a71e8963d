"""What a mechanism is: the hooks through which a block speaks to it, and how a file announces one."""

import dataclasses
import difflib
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from torch import Tensor, nn

from crosslayer.ops import KnownPool, Normalisation, Pending, residual_output
from crosslayer.ops.shapes import InputMap, Map, Prefix, ReadMap, Taps

StateT = TypeVar("StateT")
LayoutName = Literal["maps", "tokens"]


@dataclasses.dataclass(frozen=True)
class StageShape:
    """What a mechanism is told of the stage it is built for.

    Args:
        index: position of the stage in the network, from 0.
        depth: number of blocks, T.
        channels: channels of every block's output (and of its residual branch).
        tap_channels: channels of each activation that `gate` is offered; the last is the residual branch.
        last: whether the network ends with this stage.
        small_images: whether the network is one for small images (CIFAR); published settings differ.
        layout: whether the network works on maps (ResNets) or on tokens, normalised over channels (transformers). Hooks
            are given maps in both; what tokens have besides the map (a class token) goes through `merge_prefix`.
    """

    index: int
    depth: int
    channels: int
    tap_channels: tuple[int, ...]
    last: bool = False
    small_images: bool = False
    layout: LayoutName = "maps"


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
    reaches_into_blocks: bool = False
    """Whether it needs more of a block than its input and output: wider or other convolutions, or inner activations.
    Blocks of networks built elsewhere are closed."""
    pools_output: bool = False
    """Whether `merge` begins with the global average pool of a block's output, which can then be made with it. Such a
    mechanism gates no branch."""

    def __init__(self, shape: StageShape, config: Any) -> None:
        super().__init__()
        assert not (self.pools_output and self.gates_branch), f"{type(self).__name__} pools the output and has a gate"

    @property
    def gates_branch(self) -> bool:
        """Whether it has a `gate` of its own."""
        return type(self).gate is not Mechanism.gate

    def convolution(self, t: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        """Block t's 3×3 convolution (the second one of a basic block), which the block will own."""
        return nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)

    def acts_on(self, t: int) -> bool:
        """Whether block t's branch or output is any different for it."""
        return True

    def start(self, x: InputMap, carry: Tensor | None) -> StateT:
        """The stage begins, with its input and what the stage before handed on."""
        return None  # type: ignore[return-value]  # a mechanism without state

    def read(self, t: int, x: InputMap, state: StateT) -> ReadMap:
        """What block t convolves."""
        return x

    def gate(self, t: int, taps: Taps, state: StateT) -> tuple[Map, StateT]:
        """Block t's residual branch (the last tap) before it is added to the shortcut."""
        return taps[-1], state

    def end_block(
        self, t: int, convolved: Map, shortcut: Pending, norm: Normalisation, state: StateT
    ) -> tuple[Map, StateT]:
        """Block t from its last convolution on, ReLU(BN(x) + s) and `merge`; called where there is `pools_output`."""
        added = shortcut.done()
        return self.merge(t, residual_output(convolved, added, norm), added, state)

    def merge(self, t: int, out: KnownPool, shortcut: Map, state: StateT) -> tuple[Map, StateT]:
        """Block t's output, after its last activation; with `pools_output` its pool may be known."""
        return out.of, state

    def merge_prefix(self, t: int, prefix: Prefix) -> Prefix:
        """What block t gives the tokens that are no part of a map, after its last activation."""
        return prefix

    def finish(self, state: StateT) -> Tensor | None:
        """The stage ends: what the next one (or, with `extra_out`, the classifier) receives."""
        return None

    def attention(self, state: StateT) -> Tensor | None:
        """Attention of block l on block m, batch × heads × l × m, from a finished stage's state, if it has any."""
        return None


class Registration(NamedTuple):
    """A mechanism's class, the dataclass of its options, and the file that announces it."""

    mechanism: type[Mechanism]
    config: type
    module: str


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
        raise ValueError(f"mechanism {name!r} is already registered by {_REGISTRY[name].module}")
    module = mechanism.__module__ if config is NoOptions else config.__module__
    _REGISTRY[name] = Registration(mechanism, config, module)


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


def check_reduction(value: int, name: str = "reduction") -> None:
    """Raises ValueError for a number that channels cannot be divided by."""
    if value < 1:
        raise ValueError(f"{name} is {value}; it divides the channels and must be at least 1")


def unknown_name(kind: str, name: str, known: Any) -> str:
    """One sentence that says a name is unknown and offers the closest."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    offer = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(sorted(known))}"
    return f"unknown {kind} {name!r}; {offer}"
