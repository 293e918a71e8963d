"""A stage of a network built elsewhere, whose blocks look back at each other."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from crosslayer.mechanisms import Mechanism
from crosslayer.models.layouts import Grid, Layout, Split
from crosslayer.ops import KnownPool


@final
class GraftedStage(nn.Module):
    """Stands where a sequence of blocks stood: the same blocks under the same names, and a mechanism.

    The block's own computation is a closed box, so its residual branch is what it added to its input, out - in; the
    shortcut is its input. A block that changes its input's shape begins a stage and has no layer of its shape
    before it: its shortcut is zero.

    Args:
        blocks: in order, by name.
        keeps_shape: for each block, whether its output has its input's shape.
        mechanism: of this stage.
        layout: of the activations.
        scales: for each block that the mechanism acts on a scale γ per channel, started at zero:
            out ← out + γ ⊙ (what the mechanism makes of it - out), which starts as identity, to the bit. Without, the
            mechanism acts in full from the start.
        channels: of every block's output.

    Raises:
        ValueError: a mechanism that reaches into blocks, which are closed here.
    """

    def __init__(
        self,
        blocks: Mapping[str, nn.Module],
        keeps_shape: Sequence[bool],
        mechanism: Mechanism[Any],
        layout: Layout,
        scales: nn.ParameterDict | None,
        channels: int,
    ) -> None:
        super().__init__()
        if mechanism.reaches_into_blocks:
            raise ValueError(
                f"{type(mechanism).__name__} reaches into a network's blocks, which are closed in networks built "
                "elsewhere; use it in crosslayer's own ResNets"
            )
        self.names = tuple(blocks)
        self.channels = channels
        for name, block in blocks.items():
            self.add_module(name, block)
        self.mechanism = mechanism
        self.scales = scales
        self.keeps_shape = tuple(keeps_shape)
        self.layout = layout

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """All blocks, from the stage's input to its output; `grid` is the size of the map that tokens make."""
        state: Any = None
        for t, block in enumerate(self.blocks()):
            if t == 0:
                state = self.mechanism.start(self.layout.split(x, grid).map, None)
            x, state = self.look_back(t, block(x), x, state, grid)
        self.mechanism.finish(state)
        return x

    def look_back(self, t: int, out: Tensor, x: Tensor, state: Any, grid: Grid | None) -> tuple[Tensor, Any]:
        """What the mechanism makes of block t's output."""
        map_, prefix = self.layout.split(out, grid)
        shortcut = self.layout.split(x, grid).map if self.keeps_shape[t] else torch.zeros_like(map_)
        if self.mechanism.gates_branch:
            branch = map_ - shortcut
            gated, state = self.mechanism.gate(t, (branch,), state)
            map_ = map_ + (gated - branch)
        map_, state = self.mechanism.merge(t, KnownPool(map_), shortcut, state)
        if prefix is not None:
            prefix = self.mechanism.merge_prefix(t, prefix)
        made = self.layout.join(Split(map_, prefix)).to(out.dtype)
        if self.scales is None or not self.mechanism.acts_on(t):
            return made, state
        return torch.lerp(out, made, self.layout.per_channel(self.scales[str(t)]).to(out.dtype)), state

    def blocks(self) -> list[nn.Module]:
        """The blocks, in order."""
        return [self.get_submodule(name) for name in self.names]

    def sized(self, grid: Grid) -> "GraftedStage":
        """The same stage for tokens that make a map of this size."""
        blocks = dict(zip(self.names, self.blocks(), strict=True))
        return GraftedStage(
            blocks, self.keeps_shape, self.mechanism, self.layout.sized(grid), self.scales, self.channels
        )

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator["Walk"]:
        """What a network calls one after another that walks through its blocks by itself."""
        walk = Walk(self)
        return iter([walk] * len(self))

    def __getitem__(self, index: int | slice) -> Any:
        """A block as it is, or a stage of the first blocks.

        Raises:
            ValueError: a slice that does not begin with the first block.
        """
        if isinstance(index, int):
            return self.blocks()[index]
        if index.start not in (None, 0) or index.step not in (None, 1):
            raise ValueError("blocks of a grafted stage look back at the first: slice it from there")
        blocks = dict(zip(self.names[index], self.blocks()[index], strict=True))
        return GraftedStage(blocks, self.keeps_shape[index], self.mechanism, self.layout, self.scales, self.channels)


@final
class Walk:
    """One pass through a stage, a block at a call; the mechanism's state lives as long as the pass."""

    def __init__(self, stage: GraftedStage) -> None:
        self.stage, self.state, self.t = stage, None, 0

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The next block, and what the mechanism makes of its output.

        Raises:
            RuntimeError: more calls than blocks, as gradient checkpointing makes.
        """
        stage, t = self.stage, self.t
        if t == len(stage):
            raise RuntimeError("a grafted stage was walked beyond its last block; it cannot be gradient-checkpointed")
        if t == 0:
            self.state = stage.mechanism.start(stage.layout.split(x, None).map, None)
        x, self.state = stage.look_back(t, stage[t](x, *args, **kwargs), x, self.state, None)
        self.t += 1
        if self.t == len(stage):
            stage.mechanism.finish(self.state)
        return x
