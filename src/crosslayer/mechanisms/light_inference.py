"""Where a block's end with light layer attention is inferred by one op, and what the op is given of the modules."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from crosslayer.mechanisms.batch_norm import counted, plain_norm
from crosslayer.mechanisms.cells import Cell, Context, ReleasedDSU, SqueezeNet
from crosslayer.mechanisms.channel_convolution import ChannelConvolution
from crosslayer.mechanisms.light_branch import LightBranch, MapBranch
from crosslayer.mechanisms.module_list import TypedModuleList
from crosslayer.mechanisms.query_key_value import QueryKeyValue, plain_depthwise
from crosslayer.ops import KnownPool, LightAttention, LightBlock, Normalisation, Pending, light_block, takes_light_block
from crosslayer.ops.dsu import DSU, Squeeze
from crosslayer.ops.shapes import Map


@runtime_checkable
class LightForm(Protocol):
    """What the light forms have in common."""

    head_channels: int
    norms: TypedModuleList[nn.Module]
    shortcut_norms: TypedModuleList[nn.Module]
    projections: TypedModuleList[QueryKeyValue]
    lambdas: nn.ParameterList
    branches: TypedModuleList[LightBranch]


class LightParts(NamedTuple):
    """What a light form has in one block: norms before the attention, projections, d, λ, its branch; DLA-L has more."""

    norms: tuple[nn.Module, nn.Module]
    projection: QueryKeyValue
    head_channels: int
    scale: Tensor
    branch: LightBranch
    cell: Cell | None = None
    own_context: bool = True
    """Whether the cell refreshes every image with the context of that image."""
    stage_kernel: Tensor | None = None


def light_parts(form: LightForm, t: int) -> LightParts:
    """Of block t, as far as the forms have them in common."""
    norms = (form.norms[t], form.shortcut_norms[t])
    return LightParts(norms, form.projections[t], form.head_channels, form.lambdas[t], form.branches[t])


def inferred(
    parts: LightParts,
    convolved: Map,
    shortcut: Pending,
    norm: Normalisation,
    pool: KnownPool | None = None,
    context: Context | None = None,
) -> LightBlock | None:
    """The block's end by one op; nothing where that does not run, or does not do what these modules do."""
    attention = None if torch.is_grad_enabled() else attention_of(parts)
    if attention is None or not takes_light_block(convolved, shortcut.of, norm, attention):
        return None
    return light_block(convolved, shortcut, norm, attention, pool, context)


def attention_of(parts: LightParts) -> LightAttention | None:
    """As the op takes it: maps go in as they are, nothing has been exchanged, nothing is trained or dropped."""
    projection, cell = parts.projection, dsu_of(parts.cell)
    merged_norm = inferring_norm(parts.branch)
    if merged_norm is None or not (as_they_are(parts.norms) and plain_projections(projection)):
        return None
    if parts.cell is not None and not (cell and parts.own_context):
        return None
    weights = (projection.query.weight, projection.key.weight, projection.value.weight)
    return LightAttention(*weights, parts.head_channels, parts.scale, parts.stage_kernel, cell, merged_norm)


def inferring_norm(branch: LightBranch) -> Normalisation | None:
    """What is left of a branch on maps that is not trained and of which nothing is dropped."""
    norm, drop = branch if isinstance(branch, MapBranch) else (None, None)
    if not (isinstance(norm, nn.Module) and plain_norm(norm) and isinstance(drop, DropPath)):
        return None
    return None if norm.training or (drop.training and drop.drop_prob) else counted(norm)


def as_they_are(norms: tuple[nn.Module, nn.Module]) -> bool:
    """Whether nothing stands before the attention."""
    return all(type(norm) is nn.Identity for norm in norms)


def plain_projections(projection: QueryKeyValue) -> bool:
    """Whether they are those that a block is built with."""
    convolutions = (projection.query, projection.key)
    return plain_depthwise(projection.value) and all(type(one) is ChannelConvolution for one in convolutions)


def dsu_of(cell: Cell | None) -> DSU | None:
    """The weights of a cell that is the released one, with its own activation."""
    if type(cell) is not ReleasedDSU or cell.activation is not torch.sigmoid:
        return None
    of_input, of_hidden = squeeze_of(cell.of_input), squeeze_of(cell.of_hidden)
    return DSU(of_input, of_hidden) if of_input and of_hidden else None


def squeeze_of(net: object) -> Squeeze | None:
    """The weights of a squeeze net as it was built."""
    if type(net) is not SqueezeNet:
        return None
    first, relu, last = net
    if type(first) is nn.Linear and type(relu) is nn.ReLU and type(last) is nn.Linear:
        return Squeeze(first.weight, first.bias, last.weight, last.bias)
    return None
