"""Residual networks: for 32×32 images (arXiv 1512.03385, section 4.2; bottleneck form: 1603.05027) and for ImageNet."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crosslayer.mechanisms import NetworkMechanism, StageShape
from crosslayer.mechanisms.interface import check_attention
from crosslayer.mechanisms.layers import TypedModuleList
from crosslayer.models.blocks import BasicBlock, BlockType, Bottleneck, MechanismFactory, Stage, convolution
from crosslayer.models.saved_method import SavePretrained
from crosslayer.ops.shapes import Images, Map

StemName = Literal["small", "large", "deep"]
POOLS = ("avg", "max", "avgmax", "catavgmax", "fast", "fastavg", "fastmax", "fastavgmax", "fastcatavgmax", "")
"""timm's global poolings; the last is none, for a network without a classifier."""
OUTPUT_STRIDES = (8, 16, 32)
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

    def stages(self, output_stride: int = 32) -> list[StageShape]:
        """What mechanisms are told of every stage; maps become no smaller than the image over `output_stride`."""
        first = 1 if self.stem == "small" else 4
        last, channels = len(self.depths) - 1, [width * self.block.expansion for width in self.widths]
        return [
            StageShape(
                index=i,
                depth=depth,
                channels=channels[i],
                inner_channels=self.block.inner_channels(width),
                last=i == last,
                small_images=self.stem == "small",
                previous_channels=channels[i - 1] if i else None,
                stride=2 if i and first << i <= output_stride else 1,
            )
            for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True))
        ]


@final
class ResNet(SavePretrained, nn.Module):
    """Stem, stages that halve the map (but for the first), global average, linear; with timm's methods.

    Args:
        shape: depths, widths, block and stem.
        num_classes: outputs of the classifier; 0 for none.
        mechanism: builds the mechanism of one stage.
        in_chans: channels of the images.
        drop_rate: probability that a pooled feature is dropped in training.
        global_pool: one of timm's poolings.
        output_stride: pixels per position of the last map, at most: stages that would halve it further dilate their 3×3
            convolutions instead.

    Raises:
        ValueError: a mechanism that looks inside attention, or a value outside of what its argument may be.
    """

    def __init__(
        self,
        shape: ResNetShape,
        num_classes: int,
        mechanism: MechanismFactory,
        in_chans: int = 3,
        *,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        if not 0 <= drop_rate < 1:
            raise ValueError(f"drop_rate is {drop_rate}; it must be in [0, 1)")
        if output_stride not in OUTPUT_STRIDES:
            raise ValueError(f"output_stride is {output_stride!r}; it is one of 8, 16, 32")
        check_attention(mechanism.kind, "a ResNet")
        self.drop_rate, self.in_chans = drop_rate, in_chans
        channels = shape.widths[0]
        self.conv1 = _stem_convolution(shape.stem, in_chans, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        small = shape.stem == "small"
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.feature_info = [{"num_chs": channels, "reduction": 1 if small else 2, "module": "relu"}]
        reduction = 1 if small else 4
        stages = shape.stages(output_stride)
        mechanism_of = mechanism.of(stages)
        self.stages: TypedModuleList[Stage] = TypedModuleList()
        own, first, dilation = None, 0, 1
        for stage, width in zip(stages, shape.widths, strict=True):
            before, dilation = dilation, dilation * (2 if stage.index and stage.stride == 1 else 1)
            own = mechanism_of(stage.index)
            whole = isinstance(own, NetworkMechanism)
            made = Stage(shape.block, stage, channels, width, stage.stride, own, first if whole else 0)
            self.stages.append(made.dilated(before, dilation))
            channels, reduction, first = stage.channels, reduction * stage.stride, first + stage.depth
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"stages.{stage.index}"})
        assert own is not None, "a network has a stage"
        if isinstance(own, NetworkMechanism):
            self.mechanism = own
        self.extra_features = own.extra_out
        self.num_features = self.head_hidden_size = channels + own.extra_out
        self.reset_classifier(num_classes, global_pool)
        _start_weights(self, zero_last=not small)

    def forward(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Logits of normalised images of any size."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Images) -> Map:
        """The last map, joined by what the mechanism hands on at the network's end, if it does."""
        x, carry = self.forward_stem(images), None
        for stage in self.stages:
            x, carry = _through(stage, x, carry)
        return self._joined(x, carry)

    def _joined(self, x: Map, carry: Any) -> Float[Tensor, "batch features height width"]:
        """The last map, with what the mechanism hands on to the classifier beside it."""
        return torch.cat([x, carry], dim=1) if self.extra_features and x.shape[1] < self.num_features else x

    def forward_stem(self, images: Images) -> Map:
        """What the first stage is given."""
        return self.maxpool(self.forward__stem_convolution(images))

    def forward__stem_convolution(self, images: Images) -> Map:
        """The stem before its pooling."""
        return self.relu(self.bn1(self.conv1(images)))

    def forward_head(self, features: Map, pre_logits: bool = False) -> Tensor:
        """Logits of a last map, or with `pre_logits` its pooled features."""
        pooled = self.global_pool(features)
        if self.drop_rate:
            pooled = F.dropout(pooled, self.drop_rate, self.training)
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
        taken, last = self._levels(indices)
        x, carry = self.forward__stem_convolution(images), None
        maps = [x] if 0 in taken else []
        x = self.maxpool(x)
        for level, stage in enumerate(self.stages, start=1):
            if stop_early and level > last:
                break
            x, carry = _through(stage, x, carry)
            if level in taken:
                maps.append(x)
        return maps if intermediates_only else (self._joined(x, carry), maps)

    def _levels(self, indices: Levels | None) -> tuple[list[int], int]:
        """The levels that are asked for, and the last of them."""
        from timm.models._features import feature_take_indices

        return feature_take_indices(len(self.feature_info), _as_timm_has_it(indices))

    def prune_intermediate_layers(
        self, indices: Levels = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the stages after the last of the levels `indices`, and the classifier.

        Raises:
            ValueError: a mechanism whose last stage hands something on to the classifier would lose that stage.
        """
        taken, last = self._levels(indices)
        if self.extra_features and last < len(self.stages):
            raise ValueError(
                "the mechanism hands on a map of its own to the classifier (finish) after the last stage, which a "
                "pruned network has not; prune a network without it"
            )
        del self.stages[last:]
        if prune_head:
            self.reset_classifier(0)
        return taken

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How timm groups parameters by depth (layer-wise learning rates): a mechanism is with its stage's last block.

        One that lives once in the network is with the classifier.
        """
        block = r"^stages\.(\d+)\.blocks" + ("" if coarse else r"\.(\d+)")
        last = {i: (i,) if coarse else (i, stage.depth - 1) for i, stage in enumerate(self.stages)}
        mechanisms = [(rf"^stages\.{i}\.mechanism", place) for i, place in last.items()]
        return {"stem": r"^conv1|bn1|maxpool", "blocks": [(block, None), *mechanisms]}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are a number per channel, whatever their shape; timm spares vectors by itself."""
        named = self.named_parameters()
        return {name for name, value in named if value.ndim > 1 and value.numel() == max(value.shape)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keeps blocks' inputs only for the backward pass, which computes the rest anew."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The linear layer at the end."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier for another number of classes; 0 for none.

        Raises:
            ValueError: a negative number of classes, a pooling that timm does not know, or none before a classifier.
        """
        if num_classes < 0:
            raise ValueError(f"num_classes is {num_classes}; it must be at least 0")
        if global_pool is not None:
            if global_pool not in POOLS:
                raise ValueError(f"global_pool is {global_pool!r}; it is one of {', '.join(filter(None, POOLS))} or ''")
            from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d

            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        if num_classes and self.global_pool.is_identity():
            raise ValueError(
                f"global_pool is '' and num_classes {num_classes}; without a pooling there is no classifier"
            )
        self.num_classes = num_classes
        pooled = self.num_features * self.global_pool.feat_mult()
        self.fc = nn.Linear(pooled, num_classes) if num_classes else nn.Identity()


def _through(stage: Stage, x: Tensor, carry: Any) -> tuple[Map, Any]:
    """A stage's output, and what it hands on."""
    depth = stage.begin(x, carry)
    x = stage(x, depth)
    return x, depth.finish()


def _as_timm_has_it(levels: Levels | None) -> int | list[int] | None:
    """Levels as timm's own function takes them."""
    return list(levels) if isinstance(levels, Sequence) else levels


def _stem_convolution(stem: StemName, in_chans: int, channels: int) -> nn.Module:
    """What comes before the first normalisation."""
    if stem == "small":
        return convolution(in_chans, channels, 3)
    if stem == "large":
        return convolution(in_chans, channels, 7, 2)
    half = channels // 2
    steps = [(in_chans, half, 2), (half, half, 1)]
    layers = [(convolution(i, o, 3, stride), nn.BatchNorm2d(o), nn.ReLU(inplace=True)) for i, o, stride in steps]
    return nn.Sequential(*layers[0], *layers[1], convolution(half, channels, 3))


def _start_weights(model: ResNet, *, zero_last: bool) -> None:
    """Backbone convolutions from N(0, √(2 / (k² · out))), each branch's last normalisation from 0 if asked.

    A mechanism starts its own parameters.
    """
    _start_convolutions(model.conv1)
    for stage in model.stages:
        _start_convolutions(stage.blocks)
        for block in stage.blocks:
            if zero_last:
                nn.init.zeros_(block.last_norm.weight)


def _start_convolutions(module: nn.Module) -> None:
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
