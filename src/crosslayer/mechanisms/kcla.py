"""KCLA, key-correlated layer attention: arXiv 2606.28405, in the form of its released CIFAR and ImageNet code.

At block t, with o its output after the last activation, y = GAP(o), and H heads of d channels:

    q = C1D(y),  k = C1D'(y)
    e_h = exp(min(s_h ‖k_h‖, 10)),  z = z_{t-1} + e         s_h fixed, from 0.7 to 1/0.7: the heads' temperatures
    m   = m_{t-1} + e/z ⊙ (o - m_{t-1})                     the mean of o_1 … o_t, weighted by e
    g   = σ(Φ a),  a_h = q_h·k_h / ‖k_h‖                    Φ: H×H, mixes heads
    out = o + DropPath(ReLU(BN(g ⊙ DW3(z/(z+ε) ⊙ m))))      ε = 10⁻³

A layer's weight depends on its own key only, so that one map and H numbers are all that is carried. Stages are
linked, but for grafts, in which each begins anew: before a stage's first block, what the stage before has left
becomes one entry of the new sum,

    m_0 = BN(Conv1×1(m)),  z_0 = e of C1D''(GAP(m_0))       stride 2, H groups

and once more, without the 1×1 convolution, before the twelfth block of a stage in networks for large images.

The released code carries Σ e ⊙ o itself, which overflows in float16, and divides by ‖k_h‖, which is 0 for a map of
zeros. Here the mean is carried, with log z, and a is then 0: otherwise the same numbers up to rounding. The released
parameters have more than the equations use (`released_parameters`).

On tokens (new here: the paper has convolutional networks only): LN_x(o) for o, GELU on the value, no BN and no ReLU, as
in MRLA's token forms (layer_attention.py).
"""

import dataclasses
import math
from typing import Any, NamedTuple, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crosslayer.mechanisms.interface import StageShape
from crosslayer.mechanisms.layer_attention import LayerAttention, check_attention_options
from crosslayer.mechanisms.layers import ChannelConvolution, TypedModuleList
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.ops.layer_attention import recursion_shares
from crosslayer.ops.pooling import global_average_pool
from crosslayer.ops.shapes import HeadGate, InputMap, Map, Vector

_COLDEST = 0.7
_LARGEST_LOG_WEIGHT = 10.0
_EPSILON = 1e-3
_RENEWED = 11
"""The block before which the past becomes one entry again, counted from 0."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of KCLA.

    Args:
        head_channels: d, channels per head (absent: 16 on small images and on tokens, 64 on large images); where it
            does not divide the channels, the largest divisor below.
        drop_path: probability of dropping the attention branch for an image, in training (the released code has 0.2,
            whatever it is told).
        released_parameters: keep, frozen, what the released code stores and does not use: a transition before the
            network's first block, a 1×1 convolution before a twelfth one; and temperatures as they were stored.
    """

    head_channels: int | None = None
    drop_path: float = 0.0
    released_parameters: bool = False

    def __post_init__(self) -> None:
        check_attention_options(self.head_channels, self.drop_path)


class State(NamedTuple):
    """The past in O(1), and each block's share in the mean it left: needed to draw the attention only.

    Args:
        mean: m, of the outputs so far.
        log_total: log z.
        shares: e/z of every block.
    """

    mean: Map | None
    log_total: HeadGate | None
    shares: list[HeadGate]


class Coefficients(NamedTuple):
    """The small numbers of a block.

    Args:
        gate: g z/(z+ε), of the value.
        share: e/z, the block's own in the mean.
        log_total: log z.
    """

    gate: HeadGate
    share: HeadGate
    log_total: HeadGate


@final
class Transition(nn.Module):
    """The past as one entry: its map normalised (and projected from another stage's shape), and a key of its own.

    Args:
        channels: of the entry.
        projection: from the shape of what is given.
        projects: whether it is used; the released code has one that is not.
    """

    def __init__(self, channels: int, projection: nn.Conv2d | None, *, projects: bool) -> None:
        super().__init__()
        self.projection, self.projects = projection, projects
        self.norm = nn.BatchNorm2d(channels)
        self.key = ChannelConvolution(channels)

    def forward(self, mean: InputMap) -> Map:
        """The entry's map."""
        if self.projection is not None and self.projects:
            mean = self.projection(mean)
        return self.norm(mean)


@final
class KeyCorrelatedLayerAttention(LayerAttention[State]):
    """KCLA in one stage."""

    stands_alone = True

    def __init__(self, shape: StageShape, config: Config) -> None:
        of_maps = 16 if shape.small_images else 64
        super().__init__(shape, config.head_channels or (of_maps if shape.layout == "maps" else None))
        channels, blocks = shape.channels, range(shape.depth)
        heads = channels // self.head_channels
        self.mixers = nn.ParameterList(torch.empty(heads, heads) for _ in blocks)
        self.branches = TypedModuleList(self.form.base_branch(channels, config.drop_path) for _ in blocks)
        self.linked, transitions = shape.linked, dict[str, nn.Module]()
        if self.linked or config.released_parameters:
            first = Transition(channels, _projection(shape, heads), projects=True)
            transitions["0"] = first.requires_grad_(self.linked)
        if shape.layout == "maps" and not shape.small_images and shape.depth > _RENEWED:
            unused = _projection(shape, heads).requires_grad_(False) if config.released_parameters else None
            transitions[str(_RENEWED)] = Transition(channels, unused, projects=False)
        self.transitions = nn.ModuleDict(transitions) if transitions else None
        self.divisors: nn.ParameterList | None = None
        if config.released_parameters:
            stored = 1 / _temperatures(torch.ones(heads))
            self.divisors = nn.ParameterList(nn.Parameter(stored.clone(), requires_grad=False) for _ in blocks)
        _start(self)
        for mixer in self.mixers:
            nn.init.xavier_uniform_(mixer)

    def start(self, x: InputMap, carry: Any) -> State:
        """Nothing yet, or the mean that the stage before has left, which the first block makes one entry."""
        return State(carry if self.linked else None, None, [])

    def merge(self, t: int, out: Map, shortcut: Map, state: State) -> tuple[Map, State]:
        """Adds what block t makes of the mean of all outputs up to its own."""
        state = self.renewed(t, state)
        x = self.norms[t](out)
        gate, share, log_total = self.coefficients(t, global_average_pool(x), state.log_total)
        mean = x if state.mean is None else torch.lerp(state.mean.to(x.dtype), x, self._of_maps(share, x))
        value = self.form.activation(self.projections[t].value(mean))
        attended = self.branches[t](self._of_maps(gate, value) * value)
        return out + attended, State(mean, log_total, [*state.shares, share])

    def renewed(self, t: int, state: State) -> State:
        """The state before block t: where it has a transition, all of the past is one entry."""
        if state.mean is None or self.transitions is None or str(t) not in self.transitions:
            return state
        transition = cast(Transition, self.transitions[str(t)])
        entry = transition(state.mean)
        key = transition.key(global_average_pool(entry))
        return State(entry, self._log_weight(t, self._of_heads(key)), state.shares)

    def coefficients(self, t: int, pooled: Vector, log_past: HeadGate | None) -> Coefficients:
        """Of block t, from GAP(o) and the past's log z, if there is one."""
        projection = self.projections[t]
        query, key = self._of_heads(projection.query(pooled)), self._of_heads(projection.key(pooled))
        own = self._log_weight(t, key)
        log_total = own if log_past is None else torch.logaddexp(log_past, own)
        cosine = (query * F.normalize(key, dim=2)).sum(2)  # times ‖q‖; of a zero key nothing, and no gradient
        gate = torch.sigmoid(F.linear(cosine, self.mixers[t].to(cosine.dtype)))
        return Coefficients(gate * torch.sigmoid(log_total - math.log(_EPSILON)), (own - log_total).exp(), log_total)

    def finish(self, state: State) -> Map | None:
        """The mean of the stage's outputs."""
        return state.mean

    def attention(self, state: State) -> Tensor:
        """Every block's weight in the means; what came before the stage's first block is left out of the account."""
        kept = [(1 - share).repeat_interleave(self.head_channels, dim=1) for share in state.shares]
        return recursion_shares(state.shares, kept)

    def _log_weight(self, t: int, key: Tensor) -> HeadGate:
        """Log e."""
        norm = torch.linalg.vector_norm(key, dim=2)
        scale = _temperatures(norm[0]) if self.divisors is None else 1 / self.divisors[t].to(norm.dtype)
        return (scale * norm).clamp(max=_LARGEST_LOG_WEIGHT)

    def _of_heads(self, vector: Vector) -> Tensor:
        """Batch × heads × d, in float32 at least: squares of float16 overflow."""
        return vector.to(torch.promote_types(vector.dtype, torch.float32)).unflatten(1, (-1, self.head_channels))

    def _of_maps(self, numbers: HeadGate, x: Map) -> Tensor:
        return numbers.to(x.dtype).repeat_interleave(self.head_channels, dim=1)[..., None, None]


def _temperatures(like: Tensor) -> Tensor:
    """Geometric from 0.7 to 1/0.7, one for each of the heads; one alone has 0.7."""
    end = -math.log(_COLDEST)
    return torch.linspace(-end, end, like.shape[0], dtype=like.dtype, device=like.device).exp()


def _projection(shape: StageShape, heads: int) -> nn.Conv2d:
    """From the channels and the map of the stage before; a group for each head, if they can be divided so."""
    before = shape.channels // 2 if shape.previous_channels is None else shape.previous_channels
    groups = math.gcd(heads, before)
    return nn.Conv2d(before, shape.channels, 1, stride=shape.stride, groups=groups, bias=False)


def _start(module: nn.Module) -> None:
    """As released: N(0, √(2 / (k² · out))) for convolutions of maps, Xavier-uniform for those along channels."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.Conv1d):
            nn.init.xavier_uniform_(part.weight)


_PAPER = Paper(
    "2606.28405",
    2026,
    reads="outputs, pooled for keys and queries",
    writes="adds to the output",
    state="1 map, 1 number per head",
    block="2*k + 11*c + (c//64)**2",
    stage="34*c + k",
    results="CIFAR-100, ImageNet, COCO: see the paper",
)
register("kcla", KeyCorrelatedLayerAttention, Config, _PAPER)
