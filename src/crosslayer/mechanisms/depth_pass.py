"""One pass of images through a stage: how a host calls the hooks of a mechanism, one block after another.

Blocks are called as modules on a map and return a map; what else goes from block to block, the mechanism's state,
travels in a `DepthPass` that is made anew for every pass. It is the only thing that is changed on the way.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn

from crosslayer.mechanisms.interface import Add, Attention, Mechanism
from crosslayer.ops.shapes import Heads, Inner, InputMap, Map, Prefix, ReadMap


class BlockEnd(NamedTuple):
    """The end of a residual block: what its last convolution made, and the modules that are still to be called.

    Args:
        convolved: output of the last convolution.
        norm: the normalisation that the branch ends with.
        x: the block's input.
        shortcut: the module that makes the shortcut of x.
        activation: after the addition.
        inner: the block's inner activations.
    """

    convolved: Map
    norm: nn.Module
    x: InputMap
    shortcut: nn.Module
    activation: nn.Module
    inner: Inner = ()


class DepthPass:
    """One pass through the blocks of a stage, in plain PyTorch.

    Args:
        mechanism: of the stage.
        x: the stage's input.
        carry: what the stage before handed on.
        first: index that the mechanism knows the stage's first block by.
        blocks: the stage's, if they are called by nobody else.
    """

    def __init__(
        self,
        mechanism: Mechanism[Any],
        x: InputMap,
        carry: Any = None,
        first: int = 0,
        blocks: Iterable[nn.Module] = (),
    ) -> None:
        self.mechanism, self.first, self.next, self.blocks = mechanism, first, 0, blocks
        self.state = mechanism.start(x, carry)

    def read(self, t: int, x: InputMap) -> ReadMap:
        """What block t's branch is given.

        Raises:
            RuntimeError: block t is not the next one.
        """
        self.check_turn(t)
        x, self.state = self.mechanism.read(self.first + t, x, self.state)
        return x

    def read_qkv(self, t: int, x: Map) -> tuple[Map, Map, Map]:
        """What block t's queries, keys and values are projected from."""
        maps, self.state = self.mechanism.read_qkv(self.first + t, x, self.state)
        return maps

    def attend(self, t: int, q: Heads, k: Heads, v: Heads, attention: Attention) -> Heads:
        """What the heads of block t's attention put out."""
        out, self.state = self.mechanism.attend(self.first + t, q, k, v, self.state, attention)
        return out

    def end(self, t: int, ending: BlockEnd) -> Map:
        """Block t's output, from its last convolution on."""
        shortcut, branch = ending.shortcut(ending.x), ending.norm(ending.convolved)
        return self.join(t, branch, shortcut, lambda b, s: ending.activation(b + s), ending.inner)

    def join(self, t: int, branch: Map, shortcut: Map, add: Add, inner: Inner = ()) -> Map:
        """Block t's output, from its branch and shortcut."""
        state = self.mechanism.inside(self.first + t, inner, self.state)
        out, self.state = self.mechanism.join(self.first + t, branch, shortcut, state, add)
        self.next = t + 1
        return out

    def merge(self, t: int, out: Map, shortcut: Map) -> Map:
        """What becomes of the output of a block that has added its shortcut by itself."""
        out, self.state = self.mechanism.merge(self.first + t, out, shortcut, self.state)
        self.next = t + 1
        return out

    def merge_prefix(self, t: int, prefix: Prefix, shortcut: Prefix) -> Prefix:
        """What becomes of the tokens beside the map."""
        prefix, self.state = self.mechanism.merge_prefix(self.first + t, prefix, shortcut, self.state)
        return prefix

    def finish(self) -> Any:
        """Ends the stage: what the next one receives."""
        state = self.plain_state()
        for captured in _CAPTURED:
            captured.append(CapturedState(self.mechanism, state))
        return self.mechanism.finish(state)

    def plain_state(self) -> Any:
        """The mechanism's own state."""
        return self.state

    def at(self, t: int, state: Any) -> "DepthPass":
        """This pass as it is before block t, for a recomputation."""
        again = copy.copy(self)
        again.next, again.state = t, state
        return again

    def fork(self) -> "DepthPass":
        """A second pass that goes on from here by itself (two heads on shared blocks)."""
        return self.at(self.next, self.state)

    def check_turn(self, t: int) -> None:
        """Raises RuntimeError unless block t is the next one."""
        if t != self.next:
            raise RuntimeError(
                f"block {t} of a stage was run where block {self.next} is next; to recompute activations call "
                "set_grad_checkpointing() on the model or checkpoint whole stages; to go on twice, fork() the pass"
            )


class CapturedState(NamedTuple):
    """What a mechanism remembers at the end of a stage."""

    mechanism: Mechanism[Any]
    state: Any


_CAPTURED: list[list[CapturedState]] = []


@contextmanager
def capture_states() -> Iterator[list[CapturedState]]:
    """A list that grows by one entry whenever a stage of any network ends, in order; empty it between passes."""
    captured: list[CapturedState] = []
    _CAPTURED.append(captured)
    try:
        yield captured
    finally:
        _CAPTURED.remove(captured)
