"""Several residual streams instead of one: what hyper-connections, mHC and mHC-lite share.

n streams S_s take the place of the residual stream. Before block t, a connection makes of them, at every position,

    weights a_s to read with, a matrix M to mix with, weights b_r to write with
    x_t = Σ_s a_s S_s        S_r ← act( b_r f_t(x_t) + Σ_s M_sr S_s )

All streams begin as what the stage is given; the stage's output is their mean.

The papers have one stage and normalised branches. This project's choices, for all three:
- streams are those of a stage. They begin as the first block's shortcut, projected, which has the branches' shape
  (zero in a graft's block that has none), and that block reads the stage's input itself: its streams are all the same,
  so that weights to read them with could only scale it;
- in ResNets every stream passes the ReLU after the add, as the one stream does in the plain network;
- the end is the mean, not the sum of the streams: nothing normalises a ResNet's last map;
- between blocks a stage's map, if somebody looks at it, is what the next block reads.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from crosslayer.mechanisms.interface import Add, PositionwiseMechanism, StageShape
from crosslayer.mechanisms.layers import TypedModuleList
from crosslayer.ops.depth import weighted_sum
from crosslayer.ops.shapes import InputMap, Map

EPS = 1e-6
"""ε of the streams' RMS, where the released code has none: its gradient has no bound at a position of zeros."""


class Coefficients(NamedTuple):
    """What a connection makes of streams: numbers, or numbers per position.

    Args:
        read: a weight for every stream; none, where the block reads something else.
        mix: row s has stream s's weight in every new stream.
        write: the branch's weight in every new stream.
    """

    read: Sequence[Tensor]
    mix: Sequence[Sequence[Tensor]]
    write: Sequence[Tensor]


class Connection(nn.Module, ABC):
    """What a block reads, mixes and writes with; its parameter `write` alone does not depend on the streams."""

    @abstractmethod
    def forward(self, streams: list[Map]) -> Coefficients:
        """Coefficients for these streams."""


class State(NamedTuple):
    """The streams, mixed for the block at hand, and the weights that its branch will be written with."""

    mixed: list[Map]
    write: Sequence[Tensor]


class ResidualStreams(PositionwiseMechanism[State | None]):
    """n streams in one stage.

    Args:
        shape: of the stage.
        streams: n.
        connections: of the stage's blocks, the first of which reads nothing.
    """

    def __init__(self, shape: StageShape, streams: int, connections: Iterable[Connection]) -> None:
        super().__init__(shape, None)
        self.streams = streams
        self.connections = TypedModuleList[Connection](connections)

    def unused_parameters(self, unread: Collection[int] = (), no_shortcut: Collection[int] = ()) -> set[str]:
        """Where there is no shortcut, the streams begin as zeros: all but what does not depend on them."""
        if 0 not in no_shortcut:
            return set()
        names = {f"connections.0.{name}" for name, _ in self.connections[0].named_parameters()}
        return names - {"connections.0.write"}

    def start(self, x: InputMap, carry: Any) -> None:
        """No streams, until the first shortcut has the branches' shape."""
        return

    def join(self, t: int, branch: Map, shortcut: Map, state: State | None, add: Add) -> tuple[Map, State | None]:
        """The branch is written to every stream; the next block reads of them, or the stage ends with their mean."""
        if state is None:
            _, state = self.connected(0, [shortcut] * self.streams)
        written = (write.to(branch.dtype) * branch for write in state.write)
        streams = [add(new, old) for new, old in zip(written, state.mixed, strict=True)]
        if t + 1 == len(self.connections):
            return _mean(streams), None
        coefficients, state = self.connected(t + 1, streams)
        return weighted_sum(coefficients.read, streams), state

    def connected(self, t: int, streams: list[Map]) -> tuple[Coefficients, State]:
        """Block t's coefficients, and the streams as it will write to them."""
        coefficients = self.connections[t](streams)
        mixed = [weighted_sum(column, streams) for column in zip(*coefficients.mix, strict=True)]
        return coefficients, State(mixed, coefficients.write)


def _mean(streams: list[Map]) -> Map:
    """From the first on, so that the mean of equal streams is each of them to the bit."""
    first, *others = streams
    return first + sum(other - first for other in others) / len(streams)


def check_streams(streams: int) -> None:
    """Raises ValueError for fewer streams than one."""
    if streams < 1:
        raise ValueError(f"streams is {streams}; there is at least one")
