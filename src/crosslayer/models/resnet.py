"""Residual networks: for 32×32 images (arXiv 1512.03385, section 4.2; bottleneck form: 1603.05027) and for ImageNet."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, final

import torch
from jaxtyping import Float
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from crosslayer.mechanisms.module_list import TypedModuleList
from crosslayer.models.block import BasicBlock, BlockType, Bottleneck, convolution
from crosslayer.models.stage import MechanismFactory, Stage
from crosslayer.ops import global_average_pool
from crosslayer.ops.shapes import Images, Map

StemName = Literal["small", "large", "deep"]
Levels = int | Sequence[int]
"""Levels of features by number, or how many of the last."""


class ResNetShape(NamedTuple):
    """What one residual network differs by from another.

    Args:
        block: bottleneck or basic.
        depths: blocks of each stage.
        widths: width of each stage; a bottleneck's output has four times as many channels.
        stem: `small` is a 3×3 convolution; `large` a 7×7 one with stride 2, then pooling by two; `deep` has three 3×3
            convolutions instead (ResNet-C, arXiv 1812.01187).
    """

    block: BlockType
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem: StemName


@final
class ResNet(nn.Module):
    """Stem, stages that halve the map (but for the first), global average, linear; with timm's methods.

    Args:
        shape: depths, widths, block and stem.
        num_classes: outputs of the classifier; 0 for none.
        mechanism: builds the mechanism of one stage.
        in_chans: channels of the images.
    """

    def __init__(self, shape: ResNetShape, num_classes: int, mechanism: MechanismFactory, in_chans: int = 3) -> None:
        super().__init__()
        channels = shape.widths[0]
        self.conv1 = stem_convolution(shape.stem, in_chans, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        small = shape.stem == "small"
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.feature_info = [{"num_chs": channels, "reduction": 1 if small else 2, "module": "relu"}]
        reduction = 1 if small else 4
        self.stages: TypedModuleList[Stage] = TypedModuleList()
        for index, (depth, width) in enumerate(zip(shape.depths, shape.widths, strict=True)):
            stride = 1 if index == 0 else 2
            last = index == len(shape.depths) - 1
            self.stages.append(
                Stage(index, shape.block, depth, channels, width, stride, mechanism, last=last, small_images=small)
            )
            channels, reduction = self.stages[-1].channels, reduction * stride
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"stages.{index}"})
        self.num_features = self.head_hidden_size = channels + self.stages[-1].mechanism.extra_out
        self.reset_classifier(num_classes)
        start_weights(self, zero_last=not small)

    def forward(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Logits of normalised images of any size."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Images) -> Map:
        """The last map, joined by what the mechanism hands on at the network's end, if it does."""
        x, carry = self.forward_stem(images), None
        for stage in self.stages:
            x, carry = stage(x, carry)
        return joined(x, carry)

    def forward_stem(self, images: Images) -> Map:
        """What the first stage is given."""
        return self.maxpool(self.forward_stem_convolution(images))

    def forward_stem_convolution(self, images: Images) -> Map:
        """The stem before its pooling."""
        return self.relu(self.bn1(self.conv1(images)))

    def forward_head(self, features: Map, pre_logits: bool = False) -> Tensor:
        """Logits of a last map, or with `pre_logits` its pooled features."""
        pooled = global_average_pool(features)
        return pooled if pre_logits else self.fc(pooled)

    def forward_intermediates(
        self,
        images: Images,
        indices: Levels | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps of the levels named by `indices`: 0 is the stem before its pooling, then come the stages.

        This is timm's protocol, which `features_only=True` uses.
        """
        taken, last = feature_take_indices(len(self.feature_info), as_timm_has_it(indices))
        x, carry = self.forward_stem_convolution(images), None
        maps = [x] if 0 in taken else []
        x = self.maxpool(x)
        for level, stage in enumerate(self.stages, start=1):
            if stop_early and level > last:
                break
            x, carry = stage(x, carry)
            if level in taken:
                maps.append(x)
        return maps if intermediates_only else (joined(x, carry), maps)

    def prune_intermediate_layers(
        self, indices: Levels = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the stages after the last of the levels `indices`, and the classifier."""
        taken, last = feature_take_indices(len(self.feature_info), as_timm_has_it(indices))
        del self.stages[last:]
        if prune_head:
            self.reset_classifier(0)
        return taken

    def get_classifier(self) -> nn.Module:
        """The linear layer at the end."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier for another number of classes; 0 for none.

        Raises:
            ValueError: a negative number of classes, or a pooling other than the average.
        """
        if num_classes < 0:
            raise ValueError(f"num_classes is {num_classes}; it must be at least 0")
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool is {global_pool!r}; these networks have 'avg' only")
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()


def joined(x: Map, carry: Tensor | None) -> Float[Tensor, "batch features height width"]:
    """The last map, with what the mechanism hands on at the network's end beside it."""
    return x if carry is None else torch.cat([x, carry], dim=1)


def as_timm_has_it(levels: Levels | None) -> int | list[int] | None:
    """Levels as timm's own function takes them."""
    return list(levels) if isinstance(levels, Sequence) else levels


def stem_convolution(stem: StemName, in_chans: int, channels: int) -> nn.Module:
    """What comes before the first normalisation."""
    if stem == "small":
        return convolution(in_chans, channels, 3)
    if stem == "large":
        return convolution(in_chans, channels, 7, 2)
    half = channels // 2
    steps = [(in_chans, half, 2), (half, half, 1)]
    layers = [(convolution(i, o, 3, stride), nn.BatchNorm2d(o), nn.ReLU(inplace=True)) for i, o, stride in steps]
    return nn.Sequential(*layers[0], *layers[1], convolution(half, channels, 3))


def start_weights(model: ResNet, *, zero_last: bool) -> None:
    """Backbone convolutions from N(0, √(2 / (k² · out))), each branch's last normalisation from 0 if asked.

    A mechanism starts its own parameters.
    """
    start_convolutions(model.conv1)
    for stage in model.stages:
        start_convolutions(stage.blocks)
        for block in stage.blocks:
            if zero_last:
                nn.init.zeros_(block.last_norm.weight)


def start_convolutions(module: nn.Module) -> None:
    """N(0, √(2 / (k² · out))) for every convolution within."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            fan_out = math.prod(part.kernel_size) * part.out_channels
            nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))


def cifar_resnets() -> dict[str, ResNetShape]:
    """Networks for small images: 9m+2 layers with bottlenecks, 6m+2 with basic blocks."""
    widths = (16, 32, 64)
    bottleneck = {
        f"cifar_resnet{9 * m + 2}": ResNetShape(Bottleneck, (m,) * 3, widths, "small") for m in (2, 3, 6, 12, 18)
    }
    basic = {
        f"cifar_resnet{6 * m + 2}_basic": ResNetShape(BasicBlock, (m,) * 3, widths, "small") for m in (3, 5, 7, 9, 18)
    }
    return bottleneck | basic


def imagenet_resnets() -> dict[str, ResNetShape]:
    """ResNets v1.5 (the stride is in the 3×3 convolution); a name that ends with c has the deep stem."""
    depths = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
    stems: dict[str, StemName] = {"": "large", "c": "deep"}
    return {
        f"resnet{n}{suffix}": ResNetShape(BasicBlock if n < 50 else Bottleneck, blocks, (64, 128, 256, 512), stem)
        for suffix, stem in stems.items()
        for n, blocks in depths.items()
    }
