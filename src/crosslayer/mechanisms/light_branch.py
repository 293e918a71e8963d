"""What the light forms add to a block's output: the merge, its normalisation, and the dropping of paths."""

from typing import final

from timm.layers.drop import DropPath
from torch import nn

from crosslayer.mechanisms.batch_norm import counted, plain_norm
from crosslayer.ops import KnownPool, light_merge, light_merge_norm
from crosslayer.ops.normalisation import Keep
from crosslayer.ops.shapes import ChannelScale, HeadGate, Kernel, Map


@final
class MapBranch(nn.Sequential):
    """out = x + DropPath(BN(z)), on maps; called by itself, DropPath(BN(·)). BN's scale starts at `norm_start`."""

    def __init__(self, channels: int, drop_path: float, norm_start: float = 1.0) -> None:
        norm = nn.BatchNorm2d(channels)
        nn.init.constant_(norm.weight, norm_start)
        super().__init__(norm, DropPath(drop_path))

    def merge(
        self,
        out: KnownPool,
        x: Map,
        shortcut: Map,
        kernel: Kernel,
        gate: HeadGate,
        scale: ChannelScale,
        carried: Kernel | None,
        pooled: bool = False,
    ) -> KnownPool:
        """The block's output with the merge added; nothing stands before the merge, so x is the output itself.

        With `pooled`, its pool comes with it. A normalisation that has been exchanged for another (over several
        devices, frozen) is called as it is.
        """
        norm, drop = self
        terms = (x, shortcut, kernel, gate, scale, carried)
        if not (plain_norm(norm) and isinstance(drop, DropPath)):
            return KnownPool(out.of + self(light_merge(*terms)))
        ending = out.ending if out.ending and out.of is x and out.ending.shortcut is shortcut else None
        return KnownPool(*light_merge_norm(*terms, counted(norm), keep_factors(drop, x), pooled, ending))


@final
class TokenBranch(nn.Sequential):
    """out = out + DropPath(z) with GELU on the value, on tokens; called by itself, DropPath(·)."""

    def __init__(self, _channels: int, drop_path: float, norm_start: float = 1.0) -> None:
        if norm_start != 1:
            raise ValueError(f"norm_start is {norm_start}: on tokens nothing is normalised after the merge")
        super().__init__(DropPath(drop_path))

    def merge(
        self,
        out: KnownPool,
        x: Map,
        shortcut: Map,
        kernel: Kernel,
        gate: HeadGate,
        scale: ChannelScale,
        carried: Kernel | None,
        pooled: bool = False,
    ) -> KnownPool:
        """The block's output with the merge of its normalised copy x added; pools are taken of normalised copies."""
        return KnownPool(out.of + self(light_merge(x, shortcut, kernel, gate, scale, carried, activation="gelu")))


LightBranch = MapBranch | TokenBranch


def keep_factors(drop: DropPath, x: Map) -> Keep | None:
    """What the dropping of paths multiplies each image's branch with, if any may be dropped."""
    return drop(x.new_ones(x.shape[0], 1, 1, 1)) if drop.training and drop.drop_prob > 0 else None
