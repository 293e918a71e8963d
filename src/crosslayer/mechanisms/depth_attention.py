"""Attention over depth at every position: what AttnRes and Delta AttnRes share.

    A(q; v_0 … v_m) = Σ_i α_i ⊙ v_i,     α_i(p) = softmax_i ( q · RMS_w(v_i(p)) )        one weight per position

Sources are the stage's input v_0 and the residual branches of its blocks, each by itself or summed in groups. A block
that reads has a query q and a weight w of its own.

A query that is learned does not know the maps: the logits of all later readers for a source are one 1×1 convolution,
made when the source is made, and each reader reads the maps only once, for its sum.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crosslayer.ops.depth import pointwise, rms_product, rms_projection, softmax_over_depth
from crosslayer.ops.shapes import Map, PositionWeight

EPS = 1e-6
"""ε of the keys' RMS, as published."""


class Source(NamedTuple):
    """A map that is attended to, and the logits that reader `first` and those after it have for it."""

    value: Map
    first: int
    logits: list[PositionWeight]


class Sources(NamedTuple):
    """The stage's input and whole groups of branches; and the sum so far of the group at hand, if there is one."""

    whole: list[Source]
    partial: Source | None

    def in_order(self) -> list[Source]:
        """All of them, the newest last."""
        return self.whole if self.partial is None else [*self.whole, self.partial]


class DepthAttention(nn.Module):
    """A of every reader of a stage, with learned queries. Reader r reads when branch r has joined the sources.

    Args:
        readers: how many there are.
        channels: of the maps.
        group: how many branches make a source.
        query_std: queries start from N(0, query_std²).
    """

    def __init__(self, readers: int, channels: int, group: int, query_std: float = 0.0) -> None:
        super().__init__()
        self.readers, self.group = readers, group
        self.queries = nn.ParameterList(self.first_query(channels, query_std) for _ in range(readers))
        self.norms = nn.ParameterList(torch.ones(channels) for _ in range(readers))

    def first_query(self, channels: int, std: float) -> nn.Parameter:
        """What a query starts as."""
        return nn.Parameter(std * torch.randn(channels))

    def begin(self, value: Map) -> Sources:
        """The stage's input is the first source."""
        return Sources([self.source(value, 0, self.readers)], None)

    def add(self, r: int, branch: Map, sources: Sources) -> Sources:
        """Branch r joins: the group at hand, or what it ends."""
        total = branch if sources.partial is None else sources.partial.value + branch
        if (r + 1) % self.group:
            return Sources(sources.whole, self.source(total, r, r + 1))
        return Sources([*sources.whole, self.source(total, r, self.readers)], None)

    def source(self, value: Map, first: int, end: int) -> Source:
        """A source with the logits of readers `first` … `end` - 1."""
        keys = torch.stack([self.queries[r] * self.norms[r] for r in range(first, end)])
        logits = rms_projection(value, keys, EPS)
        return Source(value, first, [logits[:, i, None] for i in range(end - first)])

    def attention(self, sources: Sources) -> Float[Tensor, "batch 1 readers sources"] | None:
        """Every reader's weights of its sources, the mean over positions; none of groups, whose sums are not kept."""
        if self.group > 1:
            return None
        rows = []
        for r in range(self.readers):
            seen = [source.logits[r - source.first] for source in sources.whole[: r + 2]]
            means = [weight.mean((1, 2, 3)) for weight in softmax_over_depth(seen)]
            rows.append(F.pad(torch.stack(means, dim=1), (0, self.readers + 1 - len(means))))
        return torch.stack(rows, dim=1)[:, None]

    def weights(self, r: int, sources: Sources, stream: Map) -> list[PositionWeight]:
        """Reader r's softmax over all sources; `stream` is what an input-dependent query is made of."""
        return softmax_over_depth([source.logits[r - source.first] for source in sources.in_order()])


class InputDepthAttention(DepthAttention):
    """The same with queries that every position projects from the stream, q = W_r x."""

    def first_query(self, channels: int, std: float) -> nn.Parameter:
        """Channels × channels."""
        return nn.Parameter(std * torch.randn(channels, channels))

    def source(self, value: Map, first: int, end: int) -> Source:
        """Logits are made when the query is known."""
        return Source(value, first, [])

    def attention(self, sources: Sources) -> None:
        """None: queries are not kept."""
        return

    def weights(self, r: int, sources: Sources, stream: Map) -> list[PositionWeight]:
        """Reader r's softmax over all sources."""
        query = pointwise(stream, self.queries[r])
        norm = self.norms[r]
        return softmax_over_depth([rms_product(query, norm, source.value, EPS) for source in sources.in_order()])


def check_group(group: int) -> None:
    """Raises ValueError for a group without a branch."""
    if group < 1:
        raise ValueError(f"group is {group}; a source is the sum of at least one branch")
