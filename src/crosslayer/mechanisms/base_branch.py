"""What the base forms add to a block's output: the sum over stored layers, its dress, and the dropping of paths."""

from typing import final

from timm.layers.drop import DropPath
from torch import nn

from crosslayer.mechanisms.batch_norm import counted, plain_norm
from crosslayer.mechanisms.light_branch import keep_factors
from crosslayer.ops import StoredValue, history_sum, history_sum_norm
from crosslayer.ops.shapes import HeadWeights, History, Map


@final
class MapBaseBranch(nn.Sequential):
    """out + DropPath(ReLU(BN(o))), on maps; called by itself, DropPath(ReLU(BN(·)))."""

    def __init__(self, channels: int, drop_path: float) -> None:
        super().__init__(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), DropPath(drop_path))

    def merge(self, out: Map, values: list[StoredValue], weights: HeadWeights, scales: History | None = None) -> Map:
        """The block's output with the attention over stored values added.

        A normalisation that has been exchanged for another (over several devices, frozen) is called as it is.
        """
        norm, relu, drop = self
        if not (plain_norm(norm) and type(relu) is nn.ReLU and isinstance(drop, DropPath)):
            return out + self(history_sum(values, weights, scales))
        return history_sum_norm(out, values, weights, scales, counted(norm), keep_factors(drop, out))


@final
class TokenBaseBranch(nn.Sequential):
    """out + DropPath(o), on tokens; called by itself, DropPath(·)."""

    def __init__(self, _channels: int, drop_path: float) -> None:
        super().__init__(DropPath(drop_path))

    def merge(self, out: Map, values: list[StoredValue], weights: HeadWeights, scales: History | None = None) -> Map:
        """The block's output with the attention over stored values added."""
        return out + self(history_sum(values, weights, scales))


BaseBranch = MapBaseBranch | TokenBaseBranch
