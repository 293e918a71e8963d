"""Residual networks for 32×32 images (arXiv 1512.03385, section 4.2; bottleneck form: arXiv 1603.05027)."""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crosslayer.mechanisms.module_list import TypedModuleList
from crosslayer.models.block import BasicBlock, BlockType, Bottleneck, convolution
from crosslayer.models.stage import MechanismFactory, Stage
from crosslayer.ops import global_average_pool
from crosslayer.ops.shapes import Images, Map

WIDTHS = (16, 32, 64)
STRIDES = (1, 2, 2)


@final
class CIFARResNet(nn.Module):
    """3×3 stem of 16 channels, three stages of m blocks of width 16, 32 and 64, global average, linear.

    Args:
        block: bottleneck (9m+2 layers) or basic (6m+2).
        blocks_per_stage: m.
        num_classes: outputs of the classifier.
        mechanism: builds the mechanism of one stage.
    """

    def __init__(
        self,
        block: BlockType,
        blocks_per_stage: int,
        num_classes: int,
        mechanism: MechanismFactory,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = convolution(3, WIDTHS[0], 3)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        channels = WIDTHS[0]
        self.stages: TypedModuleList[Stage] = TypedModuleList()
        for index, (width, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True)):
            stage = Stage(index, block, blocks_per_stage, channels, width, stride, mechanism)
            self.stages.append(stage)
            channels = stage.channels
        self.num_features = channels + self.stages[-1].mechanism.extra_out
        self.fc = nn.Linear(self.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, Stage):
                start_convolutions(module.blocks)
        start_convolutions(self.conv1)

    def forward(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Logits of normalised images of any size."""
        return self.fc(global_average_pool(self.forward_features(images)))

    def forward_features(self, images: Images) -> Map:
        """The last map, joined by what the mechanism hands on at the network's end, if it does."""
        x, carry = self.forward_stem(images), None
        for stage in self.stages:
            x, carry = stage(x, carry)
        return x if carry is None else torch.cat([x, carry], dim=1)

    def forward_stem(self, images: Images) -> Map:
        """What the first stage is given."""
        return self.relu(self.bn1(self.conv1(images)))


def start_convolutions(module: nn.Module) -> None:
    """Starts the backbone's convolutions from N(0, √(2 / (k² · out))); a mechanism starts its own."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            fan_out = math.prod(part.kernel_size) * part.out_channels
            nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))


def cifar_backbones() -> dict[str, tuple[BlockType, int]]:
    """Name → block and blocks per stage."""
    bottleneck: dict[str, tuple[BlockType, int]] = {
        f"cifar_resnet{9 * m + 2}": (Bottleneck, m) for m in (2, 3, 6, 12, 18)
    }
    basic: dict[str, tuple[BlockType, int]] = {
        f"cifar_resnet{6 * m + 2}_basic": (BasicBlock, m) for m in (3, 5, 7, 9, 18)
    }
    return bottleneck | basic
