"""Hyper-connections (HC): arXiv 2409.19606, in the form of its Appendix J with an RMS norm.

n residual streams S_s, see streams.py. At every position, for each stream by itself, with u_s = RMS_w(S_s):

    A_s = α_s + λ_α tanh(W_α u_s) ∈ R^{1+n}:  a_s, then M_s1 … M_sn        b_s = β_s + λ_β tanh(w_β · u_s)

At the start a = e_{t mod n}, M = I, b = 1, W_α = 0, w_β = 0, λ = 0.01: all streams are the plain network's, and so is
their mean, exactly. `dynamic=False` is the static form, without W.

Deviation from the code that implements it: ε in the norm, and what streams.py says of stages and of their end.
"""

import dataclasses
from typing import final

import torch
from torch import nn

from crosslayer.mechanisms.interface import StageShape
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.mechanisms.streams import EPS, Coefficients, Connection, ResidualStreams, check_streams
from crosslayer.ops.depth import rms_projection, rows
from crosslayer.ops.shapes import Map


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of hyper-connections.

    Args:
        streams: n, the expansion rate.
        dynamic: whether coefficients depend on the streams.
    """

    streams: int = 4
    dynamic: bool = True

    def __post_init__(self) -> None:
        check_streams(self.streams)


@final
class HyperConnection(Connection):
    """Connection of one block; without `reads` it has no a.

    Args:
        config: of the mechanism.
        channels: of a stream.
        t: the block's index, which tells what stream it reads at first.
        reads: whether the block reads of the streams.
        eps: ε of the norm.
    """

    def __init__(self, config: Config, channels: int, t: int, *, reads: bool, eps: float = EPS) -> None:
        super().__init__()
        n = config.streams
        self.streams, self.reads, self.dynamic, self.eps = n, int(reads), config.dynamic, eps
        first = torch.eye(n)[:, t % n, None]
        self.read_mix = nn.Parameter(torch.cat([first, torch.eye(n)], dim=1) if reads else torch.eye(n))
        self.write = nn.Parameter(torch.ones(n))
        if config.dynamic:
            self.norm = nn.Parameter(torch.ones(channels))
            self.read_mix_projection = nn.Parameter(torch.zeros(n + self.reads, channels))
            self.write_projection = nn.Parameter(torch.zeros(channels))
            self.read_mix_scale = nn.Parameter(torch.tensor(0.01))
            self.write_scale = nn.Parameter(torch.tensor(0.01))

    def forward(self, streams: list[Map]) -> Coefficients:
        """Each stream tells its own row of M."""
        width = self.streams + self.reads
        read_mix = [rows(row, width) for row in rows(self.read_mix, self.streams)]
        write = rows(self.write, self.streams)
        if self.dynamic:
            projection = torch.cat([self.read_mix_projection, self.write_projection[None]]) * self.norm
            for s, stream in enumerate(streams):
                bends = torch.tanh(rms_projection(stream, projection, self.eps))
                read_mix[s] = [a + self.read_mix_scale * bends[:, i, None] for i, a in enumerate(read_mix[s])]
                write[s] = write[s] + self.write_scale * bends[:, width:]
        return Coefficients([row[0] for row in read_mix if self.reads], [row[self.reads :] for row in read_mix], write)


@final
class HyperConnections(ResidualStreams):
    """HC in one stage."""

    starts_as_identity = True

    def __init__(self, shape: StageShape, config: Config) -> None:
        blocks = range(shape.depth)
        made = (HyperConnection(config, shape.channels, t, reads=t > 0) for t in blocks)
        super().__init__(shape, config.streams, made)


_PAPER = Paper(
    "2409.19606",
    2024,
    reads="streams, at every position",
    writes="replaces the add",
    state="4 maps",
    block="7*c + 26",
    stage="-c - 4",
    results="ViT and DiT, in the paper",
)
register("hc", HyperConnections, Config, _PAPER)
