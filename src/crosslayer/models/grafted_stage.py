"""A stage of a network built elsewhere, whose blocks look back at each other."""

import operator
import threading
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._C import _autograd

from crosslayer.mechanisms import Mechanism, PositionwiseMechanism
from crosslayer.mechanisms.depth_pass import DepthPass
from crosslayer.mechanisms.interface import ATTENTION_HOOKS, Attention, looks_inside_attention, overrides, refused_hooks
from crosslayer.models import block_calls
from crosslayer.models.layouts import Grid, Layout, Split
from crosslayer.models.open_attention import open_attention
from crosslayer.ops.shapes import Heads, Map, Prefix, Tokens

HONOURED = {"start", "read", *ATTENTION_HOOKS, "gate", "join", "merge", "merge_prefix", "finish"}
"""Hooks that blocks need not be open for, or only their attention."""


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


@final
class _BeforeBlock:
    """Hook in front of block t."""

    def __init__(self, walk: Walk, t: int) -> None:
        self.walk, self.t = walk, t

    def __call__(self, _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> block_calls.Arguments:
        told = block_calls.told_size(args, kwargs) if self.walk.told else None
        return block_calls.giving(self.walk.before(self.t, block_calls.given(args, kwargs), told), args, kwargs)


@final
class _AfterBlock:
    """Hook behind block t."""

    def __init__(self, walk: Walk, t: int) -> None:
        self.walk, self.t = walk, t

    def __call__(self, _block: nn.Module, _args: tuple[Any, ...], out: Any) -> Any:
        return block_calls.returning(self.walk.after(self.t, block_calls.returned(out)), out)


@final
class PatchesHook:
    """Hook behind the convolution that makes tokens: the size of their map in this pass."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk

    def __call__(self, _convolution: nn.Module, _args: tuple[Any, ...], out: Tensor) -> None:
        """Keeps it for the stage that begins next."""
        self.walk.grids[thread()] = (out.shape[-2], out.shape[-1])


@final
class GraftedStage(nn.Module):
    """Stands where a sequence of blocks stood: the same blocks under the same names, and a mechanism.

    The block's own computation is a closed box, so its residual branch is what it added to its input, out - in; the
    shortcut is its input. A block that changes its input's shape begins a stage and has no layer of its shape
    before it: its shortcut is zero. Blocks are iterated and indexed as they are; each is followed by a hook in which
    the mechanism looks back.

    Args:
        blocks: in order, by name.
        walk: the mechanism, and how it is called along these blocks.
        channels: of every block's output.
        hooked: whether blocks are hooked here; else they call the walk by themselves.

    The walk's scales have for each block that the mechanism acts on a number γ per channel, started at zero:
    out ← out + γ ⊙ (what the mechanism makes of it - out), which starts as identity, to the bit. Without, the
    mechanism acts in full from the start.

    Raises:
        ValueError: a mechanism with hooks that these blocks cannot honour.
    """

    def __init__(self, blocks: Mapping[str, nn.Module], walk: Walk, channels: int, *, hooked: bool = True) -> None:
        super().__init__()
        check_hooks(walk.mechanism, "a network built elsewhere")
        self.channels, self.walk = channels, walk
        self._names = tuple(blocks)
        self._modules.update(blocks)
        self._modules[_free_name("mechanism", blocks)] = walk.mechanism
        self._modules[_free_name("scales", blocks)] = walk.scales
        for t, block in enumerate(blocks.values() if hooked else ()):  # before other hooks, which see the output whole
            if looks_inside_attention(walk.mechanism):
                open_attention(block, t, walk)
            block.register_forward_pre_hook(_BeforeBlock(walk, t), with_kwargs=True)
            block.register_forward_hook(_AfterBlock(walk, t), prepend=True)

    @property
    def own_mechanism(self) -> Mechanism[Any]:
        """What looks back."""
        return self.walk.mechanism

    @property
    def depth(self) -> int:
        """Number of units that look back."""
        return len(self.walk.keeps_shape)

    @property
    def pass_type(self) -> type[DepthPass]:
        """How the mechanism is run."""
        return self.walk.pass_type

    @pass_type.setter
    def pass_type(self, kind: type[DepthPass]) -> None:
        self.walk.pass_type = kind

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """All blocks, from the stage's input to its output."""
        for block in self:
            x = block(x, *args, **kwargs)
        return x

    @contextmanager
    def sized(self, grid: Grid) -> Iterator[None]:
        """Within, tokens make a map of this size, in this thread."""
        me = thread()
        self.walk.grids[me] = grid
        try:
            yield
        finally:
            self.walk.grids.pop(me, None)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter([self._modules[name] for name in self._names])  # pyright: ignore[reportReturnType]

    def __getitem__(self, index: int | slice) -> Any:
        """A block, a stage of the first blocks, or blocks from further on, which are called after those before them."""
        if not isinstance(index, slice):
            return self._modules[self._names[operator.index(index)]]
        names = self._names[index]
        blocks: OrderedDict[str, Any] = OrderedDict((name, self._modules[name]) for name in names)
        if names and names == self._names[: len(names)]:
            return GraftedStage(blocks, self.walk, self.channels, hooked=False)
        return nn.Sequential(blocks)


def _free_name(name: str, taken: Container[str]) -> str:
    """The name, with as many underscores behind it as no block has."""
    while name in taken:
        name += "_"
    return name


def fits_closed_blocks(mechanism: Mechanism[Any] | type[Mechanism[Any]]) -> bool:
    """Whether blocks need not be open for the mechanism."""
    return not _refused(mechanism)


def check_hooks(mechanism: Mechanism[Any] | type[Mechanism[Any]], host: str) -> None:
    """Raises ValueError for a mechanism whose hooks closed blocks cannot honour, and names them."""
    if refused := _refused(mechanism):
        name = mechanism.__name__ if isinstance(mechanism, type) else type(mechanism).__name__
        raise ValueError(
            f"{name} reaches into a network's blocks by its hook {' and '.join(refused)}, and the blocks of {host} are "
            "closed; use it in crosslayer's own ResNets"
        )


def _refused(mechanism: Mechanism[Any] | type[Mechanism[Any]]) -> list[str]:
    wider = ["read (more channels)"] if mechanism.extra_in else []
    return refused_hooks(mechanism, HONOURED) + wider


def thread() -> int:
    """Whose pass it is; a graph that is traced is its own."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()
