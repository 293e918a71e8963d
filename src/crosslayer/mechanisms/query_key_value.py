from typing import NamedTuple, final

from torch import nn
from typing_extensions import TypeIs

from crosslayer.mechanisms.channel_convolution import ChannelConvolution
from crosslayer.ops import KnownPool, Normalisation, residual_output, residual_value, value_map
from crosslayer.ops.query_key import query_key
from crosslayer.ops.shapes import Map, Vector


class QueryKey(NamedTuple):
    """One block's query and key."""

    query: Vector
    key: Vector


@final
class QueryKeyValue(nn.Module):
    """The three projections of layer attention in one block (MRLA, arXiv 2302.03985, Eq. 8).

    Query and key are channel-wise 1-D convolutions of the pooled map, the value a depth-wise 3×3 convolution of it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = ChannelConvolution(channels)
        self.key = ChannelConvolution(channels)
        self.value = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)

    def query_key(self, pooled: Vector) -> QueryKey:
        """Query and key of a pooled map, together."""
        return QueryKey(*query_key(pooled, self.query.weight, self.key.weight))

    def value_map(self, x: Map) -> KnownPool:
        """The value of a map; a convolution that has been exchanged for another module is called as it is."""
        return value_map(x, self.value.weight) if plain_depthwise(self.value) else KnownPool(self.value(x))

    def residual_value(self, x: Map, shortcut: Map, norm: Normalisation) -> tuple[KnownPool, KnownPool]:
        """A block's output ReLU(BN(x) + s) and its value; an exchanged convolution is called as it is."""
        if plain_depthwise(self.value):
            return residual_value(x, shortcut, norm, self.value.weight)
        out = residual_output(x, shortcut, norm)
        return out, self.value_map(out.of)


def plain_depthwise(value: nn.Module) -> TypeIs[nn.Conv2d]:
    """Whether a module is the depth-wise 3×3 convolution that projections are built with."""
    return (
        type(value) is nn.Conv2d
        and value.bias is None
        and value.groups == value.in_channels == value.out_channels
        and value.kernel_size == (3, 3)
        and value.stride == value.dilation == value.padding == (1, 1)
        and value.padding_mode == "zeros"
    )


def channels_per_head(channels: int, wanted: int) -> int:
    """The largest divisor of `channels` that is not above the wanted number d."""
    return next(d for d in range(min(wanted, channels), 0, -1) if channels % d == 0)


def check_attention_options(head_channels: int | None, drop_path: float) -> None:
    """Raises ValueError for a head without channels or a probability that is none."""
    if head_channels is not None and head_channels < 1:
        raise ValueError(f"head_channels is {head_channels}; a head has at least one channel")
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path is {drop_path}; it is a probability in [0, 1)")
