"""What MRLA and DLA share: projections, how they are dressed on maps and on tokens, and their two forms.

    light     out = x + DropPath(BN(z)),          z = g ⊙ V + a ⊙ s + DW3(s; K)        s the block's shortcut
    base      out = x + DropPath(ReLU(BN(o))),    o = Σ_m f_m ⊙ V_m                    over the layers stored so far

with V = DW3(x). A mechanism computes the few numbers g, a, K or f_m per image and channel from pooled maps
(`coefficients`); these formulas, which all of them share, are all that is done to whole maps.

On tokens (the MRLA paper's code, arXiv 2302.03985): V = φ(DW3(LN_x(x))) and nothing is normalised after the
attention; the light form's shortcut is LN_o(s) and its φ is GELU; tokens without a place in the map (a class token)
receive x + DropPath(LN_x(x)); the base forms forget stored layers at every fourth block. d, channels per head, is 32
for maps and 16 for tokens unless given.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any, Generic, NamedTuple, TypeVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crosslayer.mechanisms.interface import LayoutName, Mechanism, StageShape
from crosslayer.mechanisms.layers import ChannelConvolution, TypedModuleList
from crosslayer.ops.layer_attention import history_sum, light_merge
from crosslayer.ops.pooling import global_average_pool
from crosslayer.ops.shapes import ChannelScale, HeadGate, History, InputMap, Kernel, Map, Prefix, Vector

StateT = TypeVar("StateT")
MemoryT = TypeVar("MemoryT")


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


@dataclasses.dataclass(frozen=True)
class Form:
    """How layer attention is dressed for one layout."""

    head_channels: int
    window: int | None
    """Blocks after which the base forms begin anew, if they do."""
    norm: Callable[[int], nn.Module]
    """Before the attention."""
    activation: Callable[[Tensor], Tensor]
    """φ of the light form's value."""
    light_branch: Callable[[int, float, float], nn.Module]
    base_branch: Callable[[int, float], nn.Module]


class LayerAttention(Mechanism[StateT], ABC):
    """Layer attention in one stage: norms, projections and a branch per block."""

    branches: TypedModuleList[nn.Module]

    def __init__(self, shape: StageShape, head_channels: int | None) -> None:
        super().__init__(shape, None)
        self.form, channels, blocks = FORMS[shape.layout], shape.channels, range(shape.depth)
        self.head_channels = _channels_per_head(channels, head_channels or self.form.head_channels)
        self.norms = TypedModuleList(self.form.norm(channels) for _ in blocks)
        self.projections = TypedModuleList(QueryKeyValue(channels) for _ in blocks)

    def merge_prefix(self, t: int, prefix: Prefix, shortcut: Prefix, state: StateT) -> tuple[Prefix, StateT]:
        """Adds a class token's normalised copy to it."""
        return prefix + self.branches[t](_of_positions(self.norms[t], prefix)), state


class Coefficients(NamedTuple):
    """What enters the light form's merge."""

    gate: HeadGate
    scale: ChannelScale
    kernel: Kernel | None = None


class LightLayerAttention(LayerAttention[StateT]):
    """The light form: a block sees its own value and, through its shortcut, what the block before has left."""

    def __init__(self, shape: StageShape, head_channels: int | None, drop_path: float, norm_start: float) -> None:
        super().__init__(shape, head_channels)
        channels, blocks = shape.channels, range(shape.depth)
        self.shortcut_norms = TypedModuleList(self.form.norm(channels) for _ in blocks)
        self.lambdas = nn.ParameterList(torch.randn(channels) for _ in blocks)
        self.branches = TypedModuleList(self.form.light_branch(channels, drop_path, norm_start) for _ in blocks)

    def merge(self, t: int, out: Map, shortcut: Map, state: StateT) -> tuple[Map, StateT]:
        """Adds block t's value and what its shortcut carries on."""
        x, s = self.norms[t](out), self.shortcut_norms[t](shortcut)
        (gate, scale, kernel), state = self.coefficients(
            t, global_average_pool(x), lambda: global_average_pool(s), state
        )
        value = self.form.activation(self.projections[t].value(x))
        return out + self.branches[t](light_merge(value, gate, s, scale, kernel)), state

    def unused_parameters(self, unread: Collection[int] = (), no_shortcut: Collection[int] = ()) -> set[str]:
        """λ of a zero shortcut, too."""
        return super().unused_parameters(unread) | {f"lambdas.{t}" for t in no_shortcut}

    @abstractmethod
    def coefficients(
        self, t: int, pooled: Vector, pooled_shortcut: Callable[[], Vector], state: StateT
    ) -> tuple[Coefficients, StateT]:
        """Of block t, from GAP(x) and, for those who ask, GAP(s)."""


class BaseState(NamedTuple):
    """The values stored so far, and the small numbers that a mechanism remembers of them."""

    values: list[Map]
    memory: Any


class BaseLayerAttention(LayerAttention[BaseState], Generic[MemoryT]):
    """The base form: a block attends to the values of all blocks up to it."""

    def __init__(self, shape: StageShape, head_channels: int | None, drop_path: float) -> None:
        super().__init__(shape, head_channels)
        self.depth, self.window = shape.depth, self.form.window or shape.depth
        self.branches = TypedModuleList(self.form.base_branch(shape.channels, drop_path) for _ in range(shape.depth))

    def start(self, x: InputMap, carry: Any) -> BaseState:
        """Nothing stored."""
        return BaseState([], self.forget(None))

    def merge(self, t: int, out: Map, shortcut: Map, state: BaseState) -> tuple[Map, BaseState]:
        """Adds what block t draws from its own value and those stored before it."""
        x = self.norms[t](out)
        value = self.projections[t].value(x)
        if t % self.window == 0:
            state = BaseState([], self.forget(state.memory))
        values = [*state.values, value]
        factors, memory = self.coefficients(t, global_average_pool(x), lambda: global_average_pool(value), state.memory)
        return out + self.branches[t](history_sum(values, factors)), BaseState(values, memory)

    def unused_parameters(self, unread: Collection[int] = (), no_shortcut: Collection[int] = ()) -> set[str]:
        """Queries with one layer to look at, whose softmax is 1, and keys that nobody else looks at, too."""
        unused = super().unused_parameters(unread)
        for t in range(self.depth):
            end = min(self.depth, t - t % self.window + self.window)
            if t % self.window == 0:
                unused.add(f"projections.{t}.query.weight")
            if all(reader in unread for reader in range(t + 1, end)):
                unused.add(f"projections.{t}.key.weight")
        return unused

    @abstractmethod
    def forget(self, memory: MemoryT | None) -> MemoryT:
        """The memory without what belongs to stored values; of nothing, a fresh one."""

    @abstractmethod
    def coefficients(
        self, t: int, pooled: Vector, pooled_value: Callable[[], Vector], memory: MemoryT
    ) -> tuple[History, MemoryT]:
        """A factor per image, stored layer (block t's own is the last) and channel."""


def _light_map_branch(channels: int, drop_path: float, norm_start: float) -> nn.Sequential:
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.weight, norm_start)
    return nn.Sequential(norm, _drop_path(drop_path))


def _light_token_branch(_channels: int, drop_path: float, norm_start: float) -> nn.Sequential:
    if norm_start != 1:
        raise ValueError(f"norm_start is {norm_start}: on tokens nothing is normalised after the merge")
    return nn.Sequential(_drop_path(drop_path))


def _base_map_branch(channels: int, drop_path: float) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), _drop_path(drop_path))


def _base_token_branch(_channels: int, drop_path: float) -> nn.Sequential:
    return nn.Sequential(_drop_path(drop_path))


def _drop_path(rate: float) -> nn.Module:
    from timm.layers.drop import DropPath

    return DropPath(rate)


def _no_norm(_channels: int) -> nn.Module:
    return nn.Identity()


def _layer_norm(channels: int) -> nn.Module:
    from timm.layers.norm import LayerNorm2d

    return LayerNorm2d(channels, eps=1e-6)


def _as_it_is(x: Tensor) -> Tensor:
    return x


FORMS: dict[LayoutName, Form] = {
    "maps": Form(32, None, _no_norm, _as_it_is, _light_map_branch, _base_map_branch),
    "tokens": Form(16, 4, _layer_norm, F.gelu, _light_token_branch, _base_token_branch),
}


def _of_positions(norm: nn.Module, tokens: Prefix) -> Prefix:
    """A norm of maps on tokens, as a map of one column."""
    return norm(tokens.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)


def _channels_per_head(channels: int, wanted: int) -> int:
    """The largest divisor of `channels` that is not above the wanted number d."""
    return next(d for d in range(min(wanted, channels), 0, -1) if channels % d == 0)


def check_attention_options(head_channels: int | None, drop_path: float) -> None:
    """Raises ValueError for a head without channels or a probability that is none."""
    if head_channels is not None and head_channels < 1:
        raise ValueError(f"head_channels is {head_channels}; a head has at least one channel")
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path is {drop_path}; it is a probability in [0, 1)")
