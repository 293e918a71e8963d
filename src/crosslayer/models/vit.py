"""Vision transformers whose blocks look back at each other, for images of any size."""

import copy
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from crosslayer.mechanisms import StageShape
from crosslayer.models.grafted_stage import GraftedStage
from crosslayer.models.layouts import TokenRows
from crosslayer.models.stage import MechanismFactory
from crosslayer.ops.shapes import Images, Tokens

DEIT_WIDTHS = {"deit_tiny": 192, "deit_small": 384, "deit_base": 768}


class LookingBackTransformer(VisionTransformer):
    """timm's VisionTransformer, where `blocks` is a GraftedStage: it is told the size of every image's map."""

    blocks: GraftedStage

    def forward_features(self, x: Images, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tokens:
        """Tokens after the last block, normalised.

        Raises:
            ValueError: an attention mask; use `forward_intermediates`, which walks through the blocks one by one.
        """
        if attn_mask is not None or is_causal:
            raise ValueError("a masked pass walks through the blocks one by one: use forward_intermediates")
        grid = self.patch_embed.dynamic_feat_size((x.shape[-2], x.shape[-1]))
        tokens = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        return self.norm(self.blocks(tokens, grid))

    def forward_intermediates(self, x: Images, *args: Any, **kwargs: Any) -> Any:
        """timm's, with maps of these images' size; the model itself stays as it is."""
        grid = self.patch_embed.dynamic_feat_size((x.shape[-2], x.shape[-1]))
        sized = copy.copy(self)
        sized._modules = {**self._modules, "blocks": self.blocks.sized(grid)}
        return super(LookingBackTransformer, sized).forward_intermediates(x, *args, **kwargs)


def deit(name: str, num_classes: int, mechanism: MechanismFactory, in_chans: int = 3) -> nn.Module:
    """DeiT (arXiv 2012.12877), patch 16, 12 blocks, a mechanism acting in full from the start."""
    return looking_back_transformer(DEIT_WIDTHS[name], 12, num_classes, mechanism, in_chans)


def looking_back_transformer(
    width: int, depth: int, num_classes: int, mechanism: MechanismFactory, in_chans: int = 3
) -> nn.Module:
    """A vision transformer with 64 channels per attention head.

    Images of other sizes than 224 are padded to whole patches and the position embedding is resampled to them.
    """
    model = LookingBackTransformer(
        embed_dim=width,
        depth=depth,
        num_heads=width // 64,
        num_classes=num_classes,
        in_chans=in_chans,
        dynamic_img_size=True,
        dynamic_img_pad=True,
    )
    shape = StageShape(0, depth, width, (width,), last=True, layout="tokens")
    layout = TokenRows(model.num_prefix_tokens, model.patch_embed.grid_size)
    blocks = dict(model.blocks.named_children())
    model.blocks = GraftedStage(blocks, [True] * depth, mechanism(shape), layout, None, width)
    return model
