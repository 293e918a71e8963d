"""mHC-lite: arXiv 2601.05732.

It is mHC (mhc.py) with another mixing matrix, doubly stochastic by construction:

    M = Σ_π softmax(λ_M Φ_M u + β_M)_π P_π        over the n! permutations π of the streams, in lexicographic order

β_M starts as 0 for the identity and -8 for every other permutation: nearly the plain network.

Deviations: those of mHC.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from crosslayer.mechanisms.interface import StageShape
from crosslayer.mechanisms.mhc import ConstrainedConnection
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.mechanisms.streams import EPS, ResidualStreams, check_streams


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of mHC-lite.

    Args:
        streams: n, at most 6: there are n! permutations.
    """

    streams: int = 4

    def __post_init__(self) -> None:
        check_streams(self.streams)
        if self.streams > 6:
            raise ValueError(f"streams is {self.streams}, of which there are {math.factorial(self.streams)} "
                             "permutations; mHC-lite has at most 6")  # fmt: skip


@final
class PermutationConnection(ConstrainedConnection):
    """The logits are the permutations'; the identity is the first."""

    def __init__(self, config: Config, channels: int, t: int, *, reads: bool, eps: float = EPS) -> None:
        permutations = list(itertools.permutations(range(config.streams)))
        n = range(config.streams)
        self.taking = [[[i for i, to in enumerate(permutations) if to[s] == r] for r in n] for s in n]
        mix = torch.full((len(permutations),), -8.0)
        mix[0] = 0
        super().__init__(config.streams, channels, t, mix, reads=reads, eps=eps)

    def mixing(self, logits: list[Tensor]) -> Sequence[Sequence[Tensor]]:
        """M_sr is the share of the permutations that take s to r."""
        shares = torch.softmax(torch.stack(logits), dim=0)
        return [[shares[chosen].sum(0) for chosen in row] for row in self.taking]


@final
class PermutedHyperConnections(ResidualStreams):
    """mHC-lite in one stage."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        made = (PermutationConnection(config, shape.channels, t, reads=t > 0) for t in range(shape.depth))
        super().__init__(shape, config.streams, made)


_PAPER = Paper(
    "2601.05732",
    2026,
    reads="streams, at every position",
    writes="replaces the add",
    state="4 maps",
    block="132*c + 35",
    stage="-16*c - 5",
    results="none: language only",
)
register("mhc_lite", PermutedHyperConnections, Config, _PAPER)
