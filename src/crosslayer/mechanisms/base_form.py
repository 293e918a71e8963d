"""What the base forms MRLA-B and DLA-B share: projections, normalised branches, and the two ways a block comes in."""

from abc import ABC, abstractmethod
from typing import TypeVar

from crosslayer.mechanisms.forms import FORMS, normalised_prefix
from crosslayer.mechanisms.interface import Mechanism, StageShape
from crosslayer.mechanisms.module_list import TypedModuleList
from crosslayer.mechanisms.query_key_value import QueryKeyValue, channels_per_head
from crosslayer.ops import KnownPool, Normalisation, Pending, pool_of
from crosslayer.ops.shapes import Map, Prefix, Vector

StateT = TypeVar("StateT")


class BaseForm(Mechanism[StateT], ABC):
    """A base form in one stage: projections and a normalised branch per block."""

    pools_output = True

    def __init__(self, shape: StageShape, head_channels: int | None, drop_path: float) -> None:
        super().__init__(shape, None)
        form, channels, blocks = FORMS[shape.layout], shape.channels, range(shape.depth)
        self.head_channels = channels_per_head(channels, head_channels or form.head_channels)
        self.depth, self.window = shape.depth, form.window or shape.depth
        self.norms = TypedModuleList(form.norm(channels) for _ in blocks)
        self.projections = TypedModuleList(QueryKeyValue(channels) for _ in blocks)
        self.branches = TypedModuleList(form.base_branch(channels, drop_path) for _ in blocks)

    def end_block(
        self, t: int, convolved: Map, shortcut: Pending, norm: Normalisation, state: StateT
    ) -> tuple[Map, StateT]:
        """The block's output and its value are made together."""
        out, value = self.projections[t].residual_value(convolved, shortcut.done(), norm)
        return self.attend(t, out.of, pool_of(out.of, out), value, state)

    def merge(self, t: int, out: KnownPool, shortcut: Map, state: StateT) -> tuple[Map, StateT]:
        """The value is made of the output, on tokens of the normalised output."""
        x = self.norms[t](out.of)
        return self.attend(t, out.of, pool_of(x, out), self.projections[t].value_map(x), state)

    @abstractmethod
    def attend(self, t: int, out: Map, pooled: Vector, value: KnownPool, state: StateT) -> tuple[Map, StateT]:
        """Adds to block t's output what it draws from its own value and those of the blocks before it.

        `pooled` is the pool of what the value is made of.
        """

    def merge_prefix(self, t: int, prefix: Prefix) -> Prefix:
        """Adds a class token's normalised copy to it."""
        return prefix + self.branches[t](normalised_prefix(self.norms[t], prefix))

    def readers(self, t: int) -> int:
        """How many blocks read what block t stores: itself and later ones, until all is forgotten or the stage ends."""
        return min(self.window - t % self.window, self.depth - t)
