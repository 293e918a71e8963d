"""mHC, manifold-constrained hyper-connections: arXiv 2512.24880.

n residual streams, see streams.py. At every position, with u = RMS_w of all n·c channels of the streams together:

    a = σ(λ_a Φ_a u + β_a)      b = 2σ(λ_b Φ_b u + β_b)      M = Sinkhorn(exp(λ_M Φ_M u + β_M))

Sinkhorn makes M nearly doubly stochastic: 20 times it divides by the sums over s, then by those over r, for M_sr.

At the start Φ = 0, λ = 0.01; β_a and β_b are 1 for stream t mod n and -1 for the others; β_M is 0 on the diagonal and
-8 elsewhere. So M is nearly the identity, and a block nearly one of the plain network, but not equal.

Deviations: ε in the norm; Sinkhorn is computed with logarithms, which neither overflow nor divide by zero; and what
streams.py says of stages and of their end.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from crosslayer.mechanisms.interface import StageShape
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.mechanisms.streams import EPS, Coefficients, Connection, ResidualStreams, check_streams
from crosslayer.ops.depth import rms_projection, rows
from crosslayer.ops.shapes import Map


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of mHC.

    Args:
        streams: n.
        iterations: of Sinkhorn.
    """

    streams: int = 4
    iterations: int = 20

    def __post_init__(self) -> None:
        check_streams(self.streams)
        if self.iterations < 1:
            raise ValueError(f"iterations is {self.iterations}; there is at least one")


class ConstrainedConnection(Connection):
    """Connection of one block with bounded weights; without `reads` it has no a.

    Args:
        streams: n.
        channels: of a stream.
        t: the block's index, which tells what stream it reads and writes at first.
        mix: what β_M starts as.
        reads: whether the block reads of the streams.
        eps: ε of the norm.
    """

    def __init__(self, streams: int, channels: int, t: int, mix: Tensor, *, reads: bool, eps: float = EPS) -> None:
        super().__init__()
        self.streams, self.eps = streams, eps
        one = 2 * torch.eye(streams)[t % streams] - 1
        parts = {"read": one} if reads else {}
        parts |= {"mix": mix, "write": one}
        for name, part in parts.items():
            self.register_parameter(name, nn.Parameter(part.clone()))
        self.parts = {name: len(part) for name, part in parts.items()}
        width = streams * channels
        self.norm = nn.Parameter(torch.ones(width))
        self.projections = nn.ParameterDict({name: torch.zeros(len(part), width) for name, part in parts.items()})
        self.scales = nn.ParameterDict({name: torch.tensor(0.01) for name in parts})

    def forward(self, streams: list[Map]) -> Coefficients:
        """All streams together tell everything."""
        projection = torch.cat([self.projections[name] for name in self.parts]) * self.norm
        products = rms_projection(torch.cat(streams, dim=1), projection, self.eps)
        logits: dict[str, list[Tensor]] = {}
        at = 0
        for name, count in self.parts.items():
            biases = getattr(self, name)
            logits[name] = [self.scales[name] * products[:, at + i, None] + biases[i] for i in range(count)]
            at += count
        read = [torch.sigmoid(logit) for logit in logits.get("read", [])]
        write = [2 * torch.sigmoid(logit) for logit in logits["write"]]
        return Coefficients(read, self.mixing(logits["mix"]), write)

    @abstractmethod
    def mixing(self, logits: list[Tensor]) -> Sequence[Sequence[Tensor]]:
        """M of its logits, row by row."""


@final
class SinkhornConnection(ConstrainedConnection):
    """The logits are M's entries, row by row."""

    def __init__(self, config: Config, channels: int, t: int, *, reads: bool, eps: float = EPS) -> None:
        mix = 8 * torch.eye(config.streams).flatten() - 8
        super().__init__(config.streams, channels, t, mix, reads=reads, eps=eps)
        self.iterations = config.iterations

    def mixing(self, logits: list[Tensor]) -> Sequence[Sequence[Tensor]]:
        """Sinkhorn of their exponentials."""
        matrix = torch.stack(logits).unflatten(0, (self.streams, self.streams))
        for _ in range(self.iterations):
            matrix = matrix - matrix.logsumexp(0, keepdim=True)
            matrix = matrix - matrix.logsumexp(1, keepdim=True)
        return [rows(row, self.streams) for row in rows(matrix.exp(), self.streams)]


@final
class ConstrainedHyperConnections(ResidualStreams):
    """mHC in one stage."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        made = (SinkhornConnection(config, shape.channels, t, reads=t > 0) for t in range(shape.depth))
        super().__init__(shape, config.streams, made)


_PAPER = Paper(
    "2512.24880",
    2025,
    reads="streams, at every position",
    writes="replaces the add",
    state="4 maps",
    block="100*c + 27",
    stage="-16*c - 5",
    results="none: language only",
)
register("mhc", ConstrainedHyperConnections, Config, _PAPER)
