"""timm's attention opened, so that a mechanism is shown its queries, keys and values.

Modules, parameters and results stay timm's: an opened attention is the same object under another class, which calls a
mechanism's hooks between the projections in and out.
"""

from typing import NamedTuple, final

import torch.nn.functional as F
from timm.layers.attention import Attention, maybe_add_mask, resolve_self_attn_mask
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from crosslayer.mechanisms.interface import check_attention, overrides
from crosslayer.models.walk import Walk
from crosslayer.ops.attention import attention_scores
from crosslayer.ops.shapes import Heads, Scores, Tokens


def open_attention(block: nn.Module, t: int, walk: Walk) -> None:
    """Opens the attention of block t for the mechanism of the walk.

    Raises:
        ValueError: the block has no attention of timm's, or none that reads what a normalisation `norm1` puts out.
    """
    attention = getattr(block, "attn", None)
    known = type(attention) is Attention and (isinstance(block, Block) or not overrides(walk.mechanism, "read_qkv"))
    if not known:
        check_attention(walk.mechanism, type(block).__name__)
    assert isinstance(attention, Attention)
    attention.__class__ = _OpenAttention
    assert isinstance(attention, _OpenAttention)
    attention.walk, attention.index = walk, t
    attention.before = (getattr(block, "norm1", None),)


@final
class _OpenAttention(Attention):
    """timm's attention in the equations of its own forward, with hooks between them."""

    walk: Walk
    index: int
    before: tuple[nn.Module | None]
    """The block's normalisation, which is no part of this module."""

    def forward(self, x: Tokens, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tokens:
        """Batch × tokens × channels in and out."""
        out = self.walk.attend(self.index, self._heads(x), _BlockAttention(self, attn_mask, is_causal))
        out = self.norm(out.transpose(1, 2).flatten(2))
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(out))

    def _heads(self, x: Tokens) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values: of x, or each of what the mechanism has it read, in a projection of its own."""
        norm, maps = self.before[0], self.walk.qkv()
        if maps is None or norm is None:
            q, k, v = self._projected(x)
        else:
            q, k, v = (self._projected(norm(map_))[i] for i, map_ in enumerate(maps))
        return self.q_norm(q), self.k_norm(k), v

    def _projected(self, x: Tokens) -> tuple[Heads, ...]:
        """The whole projection, whose module LoRA and quantisers may have exchanged."""
        return self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)


class _BlockAttention(NamedTuple):
    """The block's own attention in this call."""

    module: Attention
    mask: Tensor | None
    is_causal: bool

    def __call__(self, q: Heads, k: Heads, v: Heads) -> Heads:
        """timm's two ways, to the bit."""
        if not self.module.fused_attn:
            return self.weights(attention_scores(q, k)) @ v
        dropout = self.module.attn_drop.p if self.module.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, dropout_p=dropout, is_causal=self.is_causal)

    def weights(self, scores: Scores) -> Scores:
        """Softmax and dropout; the mask is for tokens, which the first columns are for."""
        tokens = scores.shape[2]
        bias = resolve_self_attn_mask(tokens, scores, self.mask, self.is_causal)
        if bias is not None:
            bias = F.pad(bias, (0, scores.shape[3] - tokens))
        return self.module.attn_drop(maybe_add_mask(scores, bias).softmax(-1))
