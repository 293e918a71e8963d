"""A stage of a network built elsewhere, whose blocks look back at each other."""

import operator
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

from torch import Tensor, nn

from crosslayer.mechanisms import Mechanism
from crosslayer.mechanisms.depth_pass import DepthPass
from crosslayer.mechanisms.interface import ATTENTION_HOOKS, looks_inside_attention, refused_hooks
from crosslayer.models import block_calls
from crosslayer.models.layouts import Grid
from crosslayer.models.open_attention import open_attention
from crosslayer.models.walk import Walk, thread

HONOURED = {"start", "read", *ATTENTION_HOOKS, "gate", "join", "merge", "merge_prefix", "finish"}
"""Hooks that blocks need not be open for, or only their attention."""


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
