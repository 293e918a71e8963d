"""How a mechanism goes along the blocks of a network built elsewhere, as the network calls them."""

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _autograd

from crosslayer.mechanisms import Mechanism, PositionwiseMechanism
from crosslayer.mechanisms.depth_pass import DepthPass
from crosslayer.mechanisms.interface import Attention, overrides
from crosslayer.models.layouts import Grid, Layout, Split
from crosslayer.ops.shapes import Heads, Map, Prefix, Tokens


def thread() -> int:
    """Whose pass it is; a graph that is traced is its own."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()


class Walk:
    """Goes along as a network calls the blocks of a stage one after another, and keeps the pass meanwhile.

    A network built elsewhere hands nothing but a tensor from block to block, so the `DepthPass` waits here: one for
    every thread, from the first block to the last.
    """

    def __init__(
        self,
        mechanism: Mechanism[Any],
        layout: Layout,
        keeps_shape: Sequence[bool],
        scales: nn.ParameterDict | None,
        *,
        told: bool = False,
    ) -> None:
        self.told = told
        self.mechanism, self.scales, self.keeps_shape = mechanism, scales, tuple(keeps_shape)
        self.layout = layout.of_positions() if isinstance(mechanism, PositionwiseMechanism) else layout
        self.reads, self.joins = overrides(mechanism, "read"), overrides(mechanism, "join")
        self.gates, self.reads_qkv = overrides(mechanism, "gate"), overrides(mechanism, "read_qkv")
        self.pass_type = DepthPass
        self.steps: dict[int, Step] = {}
        self.grids: dict[int, Grid] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "steps": {}, "grids": {}}

    def before(self, t: int, x: Tensor, told: Grid | None = None) -> Tensor:
        """Block t is about to be called with x, whose tokens make a map of a told size: what it is given."""
        me = thread()
        if t == 0:
            grid = told or self.grids.pop(me, None) or _remembered_grid(x)
            if grid is not None and _may_be_recomputed():
                setattr(x, _GRID, grid)
            self.steps[me] = Step(self.pass_type(self.mechanism, self.layout.split(x, grid).map), grid)
        elif me not in self.steps or self.steps[me].depth.next != t:
            again = None if torch.compiler.is_compiling() else getattr(x, _RECOMPUTED, None)
            if not isinstance(again, Step):
                raise RuntimeError(
                    f"block {t} of a stage with {type(self.mechanism).__name__} was called by itself; it looks back at "
                    "the blocks before it: call the whole network, or all blocks in order"
                )
            self.steps[me] = again.at(t)
        step = self.steps[me]
        if t and _may_be_recomputed():
            setattr(x, _RECOMPUTED, step.at(t))
        split = self.layout.split(x, step.grid)
        read = step.depth.read(t, split.map)
        step.given, step.shift, step.qkv = split, None, None
        if self.reads_qkv:
            step.qkv = tuple(self.given(t, Split(m, split.prefix), x) for m in step.depth.read_qkv(t, read))
        if not self.reads or not self.mechanism.acts_on(t):
            return x
        made = self.given(t, Split(read, split.prefix), x)
        step.shift = made - x
        return made

    def given(self, t: int, read: Split, x: Tensor) -> Tensor:
        """What block t is given, of what the mechanism would have it read in the place of x."""
        made = self.layout.join(read).to(x.dtype)
        if self.scales is None or not self.mechanism.acts_on(t):
            return made
        return torch.lerp(x, made, self.scale(t, x))

    def qkv(self) -> tuple[Tokens, ...] | None:
        """What queries, keys and values of the block at hand are made of, if not of what it is given."""
        return self.step_at_hand().qkv

    def attend(self, t: int, heads: tuple[Heads, Heads, Heads], attention: Attention) -> Heads:
        """What the heads of block t put out."""
        made = self.step_at_hand().depth.attend(t, *heads, attention)
        if self.scales is None or not self.mechanism.acts_on(t):
            return made
        scale = self.scales[str(t)].to(made.dtype).unflatten(0, (made.shape[1], 1, made.shape[3]))
        return torch.lerp(attention(*heads), made, scale)

    def step_at_hand(self) -> "Step":
        """Where this thread's pass is, for a part of a block.

        Raises:
            RuntimeError: it is nowhere.
        """
        if thread() not in self.steps:
            raise RuntimeError(
                f"a part of a block with {type(self.mechanism).__name__} was called by itself; it looks back at the "
                "blocks before it: call the whole network, or all blocks in order"
            )
        return self.steps[thread()]

    def after(self, t: int, out: Tensor) -> Tensor:
        """Block t has been called: what takes the place of its output."""
        me = thread()
        step = self.steps[me]
        if step.shift is not None and self.keeps_shape[t]:  # the block added its shortcut to what it read
            out = out - step.shift
        made = self.look_back(t, out, step)
        if t == len(self.keeps_shape) - 1:
            del self.steps[me]
            step.depth.finish()
        if not self.mechanism.acts_on(t):
            return out  # which the sum of branch and shortcut is but for rounding
        if self.scales is None:
            return made
        return torch.lerp(out, made, self.scale(t, out))

    def look_back(self, t: int, out: Tensor, step: "Step") -> Tensor:
        """What the mechanism makes of block t's output."""
        depth, given = step.depth, step.given
        assert given is not None, "a block is called before it returns"
        map_, prefix = self.layout.split(out, step.grid)
        shortcut = given.map if self.keeps_shape[t] else torch.zeros_like(map_)
        map_ = self.joined(t, map_, shortcut, depth)
        if prefix is not None:
            before = given.prefix if given.prefix is not None else torch.zeros_like(prefix)
            prefix = depth.merge_prefix(t, prefix, before)
        return self.layout.join(Split(map_, prefix)).to(out.dtype)

    def joined(self, t: int, map_: Map, shortcut: Map, depth: DepthPass) -> Map:
        """A closed block has added its shortcut by itself: its branch is what it added."""
        if self.joins:
            return depth.join(t, map_ - shortcut, shortcut, torch.add)
        if self.gates:
            branch = map_ - shortcut
            return depth.join(t, branch, shortcut, lambda gated, _: map_ + (gated - branch))
        return depth.merge(t, map_, shortcut)

    def unit(self, t: int, x: Tensor, branch: Any) -> Tensor:
        """An open residual unit of a transformer, x + branch(x), of which the shortcut is known."""
        made = branch(self.before(t, x))
        step = self.steps[thread()]
        given = self.layout.split(x, step.grid)
        of_branch = self.layout.split(made, step.grid)
        map_ = step.depth.join(t, of_branch.map, given.map, torch.add)
        prefix: Prefix | None = None
        if given.prefix is not None and of_branch.prefix is not None:
            prefix = step.depth.merge_prefix(t, given.prefix + of_branch.prefix, given.prefix)
        if t == len(self.keeps_shape) - 1:
            del self.steps[thread()]
            step.depth.finish()
        return self.layout.join(Split(map_, prefix)).to(x.dtype)

    def scale(self, t: int, x: Tensor) -> Tensor:
        """γ of block t, shaped and typed to scale activations like x."""
        assert self.scales is not None, "the graft starts as identity"
        return self.layout.per_channel(self.scales[str(t)]).to(x.dtype)


_RECOMPUTED = "_crosslayer_step"
"""Attribute of what a block was given, under which the pass waits for a second call."""
_GRID = "_crosslayer_grid"
"""Attribute of what a stage was given: the size of its map, which nobody tells a second time."""


def _remembered_grid(x: Tensor) -> Grid | None:
    return None if torch.compiler.is_compiling() else getattr(x, _GRID, None)


def _may_be_recomputed() -> bool:
    """Whether gradients are being checkpointed, by torch.utils.checkpoint's hooks on saved tensors."""
    if torch.compiler.is_compiling():
        return False
    return _autograd._top_saved_tensors_default_hooks(False) is not None


class Step:
    """Where a pass is, and what the block at hand was given."""

    def __init__(self, depth: DepthPass, grid: Grid | None) -> None:
        self.depth, self.grid = depth, grid
        self.given: Split | None = None
        self.shift: Tensor | None = None
        """What a mechanism changed in it before the block read it."""
        self.qkv: tuple[Tokens, ...] | None = None
        """What queries, keys and values are made of, where the mechanism says."""

    def at(self, t: int) -> "Step":
        """The same pass before block t, for a recomputation."""
        return Step(self.depth.at(t, self.depth.state), self.grid)
