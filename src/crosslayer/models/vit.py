"""Vision transformers whose blocks look back at each other, for images of any size."""

from functools import partial
from typing import Any, final

from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from crosslayer.mechanisms import StageShape
from crosslayer.mechanisms.interface import check_attention
from crosslayer.models.blocks import MechanismFactory, Unit
from crosslayer.models.grafted_stage import GraftedStage
from crosslayer.models.layouts import TokenRows
from crosslayer.models.saved_method import SavePretrained
from crosslayer.models.walk import Walk
from crosslayer.ops.shapes import Images, Tokens

POOLS = ("token", "avg", "avgmax", "max", "map", "")
"""timm's ways from tokens to one vector; the last is none."""


class LayerAttentionViT(SavePretrained, VisionTransformer):
    """timm's VisionTransformer, where `blocks` is a GraftedStage: it is told the size of every image's map."""

    blocks: GraftedStage

    def forward_features(self, x: Images, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tokens:
        """Tokens after the last block, normalised."""
        with self.blocks.sized(self.patch_embed.dynamic_feat_size((x.shape[-2], x.shape[-1]))):
            return super().forward_features(x, attn_mask, is_causal)

    def forward_intermediates(self, x: Images, *args: Any, **kwargs: Any) -> Any:
        """timm's, with maps of these images' size."""
        with self.blocks.sized(self.patch_embed.dynamic_feat_size((x.shape[-2], x.shape[-1]))):
            return super().forward_intermediates(x, *args, **kwargs)


@final
class SublayerBlock(Block):
    """timm's block, whose attention and MLP are units of their own."""

    walk: Walk
    index: int

    def forward(self, x: Tokens, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tokens:
        """x + attention, then x + MLP, each as the mechanism has it."""
        attend = partial(self._attend, attn_mask=attn_mask, is_causal=is_causal)
        x = self.walk.unit(2 * self.index, x, attend)
        return self.walk.unit(2 * self.index + 1, x, self._mix)

    def _attend(self, x: Tokens, **options: Any) -> Tokens:
        return self.drop_path1(self.ls1(self.attn(self.norm1(x), **options)))

    def _mix(self, x: Tokens) -> Tokens:
        return self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


def layer_attention_vit(
    width: int,
    depth: int,
    num_classes: int,
    mechanism: MechanismFactory,
    in_chans: int = 3,
    unit: Unit = "block",
    *,
    drop_rate: float = 0.0,
    global_pool: str = "token",
    img_size: int | tuple[int, int] = 224,
) -> nn.Module:
    """A vision transformer with 64 channels per attention head.

    Images of other sizes than `img_size` are padded to whole patches and the position embedding is resampled to them.

    Args:
        width: channels.
        depth: blocks.
        num_classes: outputs of the classifier.
        mechanism: what looks back.
        in_chans: channels of the images.
        unit: what is looked back from and at: blocks, or their two sublayers.
        drop_rate: probability that a feature is dropped before the classifier in training.
        global_pool: one of timm's for transformers.
        img_size: side, or height and width, that the position embedding is made for, in pixels.

    Raises:
        ValueError: a mechanism that reaches into blocks, or a value outside of what its argument may be.
    """
    if not 0 <= drop_rate < 1:
        raise ValueError(f"drop_rate is {drop_rate}; it must be in [0, 1)")
    if global_pool not in POOLS:
        raise ValueError(f"global_pool is {global_pool!r}; it is one of {', '.join(filter(None, POOLS))} or ''")
    if unit == "sublayer":
        check_attention(mechanism.kind, "a sublayer by itself")
    model = LayerAttentionViT(
        embed_dim=width,
        depth=depth,
        num_heads=width // 64,
        num_classes=num_classes,
        in_chans=in_chans,
        drop_rate=drop_rate,
        global_pool=global_pool,  # pyright: ignore[reportArgumentType]  # one of its choices, as checked
        img_size=img_size,
        dynamic_img_size=True,
        dynamic_img_pad=True,
        block_fn=SublayerBlock if unit == "sublayer" else Block,
    )
    units = 2 * depth if unit == "sublayer" else depth
    shape = StageShape(0, units, width, last=True, layout="tokens")
    layout = TokenRows(model.num_prefix_tokens, model.patch_embed.grid_size)
    walk = Walk(mechanism.of([shape])(0), layout, [True] * units, None)
    blocks = dict(model.blocks.named_children())
    for index, block in enumerate(blocks.values()):
        if isinstance(block, SublayerBlock):
            block.walk, block.index = walk, index
    model.blocks = GraftedStage(blocks, walk, width, hooked=unit == "block")
    return model
