"""What layer attention normalises and activates, on the maps of a ResNet and on the tokens of a transformer.

    maps      V = DW3(x);   out = x + DropPath(BN(z)), with ReLU before DropPath in the B forms
    tokens    V = φ(DW3(LN_x(x)));   out = x + DropPath(z); the light form's shortcut is LN_o(s) and its φ is GELU;
              tokens without a place in the map (a class token) receive x + DropPath(LN_x(x));
              the B forms forget stored layers at every fourth block

as the MRLA paper's code has them (arXiv 2302.03985). d, channels per head, is 32 for maps and 16 for tokens unless
given.
"""

import dataclasses
from collections.abc import Callable

import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from torch import nn

from crosslayer.mechanisms.base_branch import BaseBranch, MapBaseBranch, TokenBaseBranch
from crosslayer.mechanisms.interface import LayoutName
from crosslayer.mechanisms.light_branch import LightBranch, MapBranch, TokenBranch
from crosslayer.ops.shapes import Prefix


@dataclasses.dataclass(frozen=True)
class Form:
    """How layer attention is dressed for one layout."""

    head_channels: int
    window: int | None
    """Blocks after which the B forms begin anew, if they do."""
    norm: Callable[[int], nn.Module]
    """Before the attention."""
    light_branch: Callable[[int, float, float], LightBranch]
    """The merge and what follows it, in the light forms."""
    base_branch: Callable[[int, float], BaseBranch]
    """The sum over stored layers and what follows it, in the base forms."""


def no_norm(_channels: int) -> nn.Module:
    """Maps go in as they are."""
    return nn.Identity()


def layer_norm(channels: int) -> nn.Module:
    """LN over the channels of every position."""
    return LayerNorm2d(channels, eps=1e-6)


FORMS: dict[LayoutName, Form] = {
    "maps": Form(32, None, no_norm, MapBranch, MapBaseBranch),
    "tokens": Form(16, 4, layer_norm, TokenBranch, TokenBaseBranch),
}


def normalised_prefix(norm: nn.Module, prefix: Prefix) -> Prefix:
    """LN_x of tokens that are no part of the map, by the norm of those that are."""
    assert isinstance(norm, LayerNorm2d), "only tokens have a prefix"
    return F.layer_norm(prefix, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
