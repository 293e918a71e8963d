"""What a mechanism is: the hooks through which a network speaks to it.

    start → ( read → inside → join → merge_prefix )* → finish          once for every stage, the middle for every block

In transformers `read_qkv` follows `read` and `attend` stands within the branch, for those that look inside attention.

By default `join` is `merge(add(gate(branch), shortcut))`, so that most mechanisms need one of `gate` and `merge` only.
Every hook defaults to the plain network. State goes in and comes out as a value and is never kept on `self`: that is
what lets a network compile, export, run in parallel and recompute activations.
"""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from torch import nn

from crosslayer.ops.shapes import Heads, Inner, InputMap, Map, Prefix, ReadMap, Scores

StateT = TypeVar("StateT")
LayoutName = Literal["maps", "tokens"]
Add = Callable[[Map, Map], Map]


@runtime_checkable
class Attention(Protocol):
    """A block's own attention, from queries, keys and values on to what its heads put out."""

    def __call__(self, q: Heads, k: Heads, v: Heads) -> Heads:
        """softmax(Q Kᵀ / √d) V, with the block's mask and dropout."""
        ...

    def weights(self, scores: Scores) -> Scores:
        """The block's softmax of scores over the last axis: tokens, which its mask may hide, then whatever else."""
        ...


@dataclasses.dataclass(frozen=True)
class StageShape:
    """What a mechanism is told of the stage it is built for.

    Args:
        index: position of the stage in the network, from 0.
        depth: number of blocks, T (of sublayers, where these are the units).
        channels: channels of every block's output and of its residual branch.
        inner_channels: channels of each inner activation that `inside` is shown.
        last: whether the network ends with this stage.
        small_images: whether the network is one for small images (CIFAR); published settings differ.
        layout: whether the network works on maps (ResNets) or on tokens, normalised over channels (transformers). Hooks
            are given maps in both; what tokens have besides the map (a class token) goes through `merge_prefix`.
        previous_channels: channels of the outputs of the stage before (absent: half as many as this one's).
        stride: of the stage's first block.
    """

    index: int
    depth: int
    channels: int
    inner_channels: tuple[int, ...] = ()
    last: bool = False
    small_images: bool = False
    layout: LayoutName = "maps"
    previous_channels: int | None = None
    stride: int = 2

    @property
    def linked(self) -> bool:
        """Whether `start` receives what the stage before hands on: there is one, and the network is no closed one."""
        return self.index > 0 and bool(self.inner_channels)


@dataclasses.dataclass(frozen=True)
class NetworkShape:
    """What a mechanism that lives once in a network is told: all its stages, in order."""

    stages: tuple[StageShape, ...]

    def stage_of(self, t: int) -> StageShape:
        """The stage of the network's block t."""
        for stage in self.stages:
            if t < stage.depth:
                return stage
            t -= stage.depth
        raise IndexError("the network has fewer blocks")


class Mechanism(nn.Module, Generic[StateT]):
    """One mechanism in one stage of a network; it owns the parameters of all the stage's blocks.

    Args:
        shape: of the stage.
        config: the dataclass of the mechanism's options.
    """

    extra_in: int = 0
    """Channels that `read` adds to what a block's first convolution sees."""
    extra_out: int = 0
    """Channels of the map that `finish` hands on and that joins the classifier at the network's end."""

    stands_alone: bool = False
    """Whether a stage does without what another's `finish` hands on, so that networks may leave stages unlinked."""
    starts_as_identity: bool = False
    """Whether with fresh parameters it changes nothing, whatever the images: grafts then need no idle scale for it, and
    one would keep it from learning, as two factors that are both zero have no gradient."""

    def __init__(self, shape: StageShape, config: Any) -> None:
        super().__init__()

    def acts_on(self, t: int) -> bool:
        """Whether block t's branch or output is any different for it."""
        return True

    def unused_parameters(self, unread: Collection[int] = (), no_shortcut: Collection[int] = ()) -> set[str]:
        """Names of parameters that nothing can depend on.

        Args:
            unread: blocks whose map nobody reads (a transformer's last, if its classifier reads the class token).
            no_shortcut: blocks whose shortcut is zero.
        """
        numbers = {str(t) for t in unread}
        return {name for name, _ in self.named_parameters() if numbers & set(name.split("."))}

    def convolution(self, t: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        """Block t's 3×3 convolution (the second one of a basic block), which the block will own."""
        return nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)

    def start(self, x: InputMap, carry: Any) -> StateT:
        """The stage begins, with its input and what the stage before handed on: any nest of tensors, or None."""
        return None  # type: ignore[return-value]  # a mechanism without state

    def read(self, t: int, x: InputMap, state: StateT) -> tuple[ReadMap, StateT]:
        """What block t's branch is given; its shortcut is still made of x."""
        return x, state

    def read_qkv(self, t: int, x: Map, state: StateT) -> tuple[tuple[Map, Map, Map], StateT]:
        """What block t's queries, keys and values are projected from; its shortcut is still x."""
        return (x, x, x), state

    def attend(self, t: int, q: Heads, k: Heads, v: Heads, state: StateT, attention: Attention) -> tuple[Heads, StateT]:
        """What the heads of block t's attention put out; prefix tokens are the first.

        `attention` is the block's own way. A block that `acts_on` denies is given what that makes of q, k and v.
        """
        return attention(q, k, v), state

    def inside(self, t: int, inner: Inner, state: StateT) -> StateT:
        """Block t's inner activations, before the end of its branch."""
        return state

    def gate(self, t: int, branch: Map, state: StateT) -> tuple[Map, StateT]:
        """Block t's residual branch before it is added to the shortcut."""
        return branch, state

    def join(self, t: int, branch: Map, shortcut: Map, state: StateT, add: Add) -> tuple[Map, StateT]:
        """How branch and shortcut become block t's output.

        `add` is the block's own way: ReLU(branch + shortcut) in ResNets, branch + shortcut in transformers.
        """
        branch, state = self.gate(t, branch, state)
        return self.merge(t, add(branch, shortcut), shortcut, state)

    def merge(self, t: int, out: Map, shortcut: Map, state: StateT) -> tuple[Map, StateT]:
        """Block t's output, after its last activation."""
        return out, state

    def merge_prefix(self, t: int, prefix: Prefix, shortcut: Prefix, state: StateT) -> tuple[Prefix, StateT]:
        """What block t gives the tokens that are no part of a map; `shortcut` is what the block was given of them."""
        return prefix, state

    def finish(self, state: StateT) -> Any:
        """The stage ends: what the next one (or, with `extra_out`, the classifier) receives."""
        return None

    def attention(self, state: StateT) -> Any:
        """Weights of block l on block m, batch × heads × l × m, from a finished stage's state; None without any.

        Where what the stage is given is looked at too, it is one column more, the first. Rows sum to one and are not
        negative, unless the mechanism's file says otherwise.
        """
        return None


class PositionwiseMechanism(Mechanism[StateT]):
    """A mechanism that works at every position by itself, whatever its neighbours.

    In a transformer its hooks are given all tokens, a class token and registers too, as one map batch × channels ×
    tokens × 1, so that these look back as every other position does; `merge_prefix` is not called.
    """

    def unused_parameters(self, unread: Collection[int] = (), no_shortcut: Collection[int] = ()) -> set[str]:
        """None: a class token that alone is read has been looked back from, too."""
        return set()


class NetworkMechanism(Mechanism[StateT]):
    """A mechanism that lives once in a network and knows all its stages.

    Hooks count blocks t through the whole network. `start` and `finish` are called for every stage; what one stage's
    `finish` returns is the next one's `carry`.

    Args:
        shape: of the network.
        config: the dataclass of the mechanism's options.
    """

    def __init__(self, shape: NetworkShape, config: Any) -> None:
        nn.Module.__init__(self)


ATTENTION_HOOKS = ("read_qkv", "attend")
HOOKS = ("convolution", "start", "read", *ATTENTION_HOOKS, "inside", "gate", "join", "merge", "merge_prefix", "finish")


def overrides(mechanism: Mechanism[Any] | type[Mechanism[Any]], hook: str) -> bool:
    """Whether a mechanism has a hook of its own."""
    kind = mechanism if isinstance(mechanism, type) else type(mechanism)
    return getattr(kind, hook) is not getattr(Mechanism, hook)


def refused_hooks(mechanism: Mechanism[Any] | type[Mechanism[Any]], honoured: set[str]) -> list[str]:
    """The hooks a mechanism has of its own that a host with only these cannot honour."""
    return [hook for hook in HOOKS if hook not in honoured and overrides(mechanism, hook)]


def looks_inside_attention(mechanism: Mechanism[Any] | type[Mechanism[Any]]) -> bool:
    """Whether a mechanism is for networks with attention only."""
    return any(overrides(mechanism, hook) for hook in ATTENTION_HOOKS)


def check_attention(mechanism: Mechanism[Any] | type[Mechanism[Any]], host: str) -> None:
    """Raises ValueError for a mechanism that looks inside attention, in the name of a host that has none to show."""
    if looks_inside_attention(mechanism):
        name = mechanism.__name__ if isinstance(mechanism, type) else type(mechanism).__name__
        raise ValueError(
            f"{name} looks inside attention, which {host} does not have; use it in a DeiT of crosslayer's "
            "(unit='block'), or graft it onto a ViT whose blocks have timm's Attention"
        )
