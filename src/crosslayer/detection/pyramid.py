"""A network's maps at strides 4, 8, 16 and 32, and the feature pyramid (arXiv 1612.03144) over them."""

from collections import OrderedDict
from typing import Any, NamedTuple, final

import torch
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from crosslayer.mechanisms import Mechanism
from crosslayer.ops.shapes import Images

STRIDES = (4, 8, 16, 32)
PROBE = 64
"""Side of the image that tells which parameters a map depends on, in pixels."""


class Level(NamedTuple):
    """One of the maps that a network gives out."""

    number: int
    channels: int


@final
class PyramidBackbone(nn.Module):
    """A network without its classifier, and a pyramid of five maps over its stages.

    The stem and the first `frozen_stages` stages, with their mechanisms, do not learn, and drop no path; nor does what
    no map depends on, such as a normalisation that only the classifier read.

    Args:
        network: of crosslayer or of timm, grafted or not; it is taken over, not copied.
        frozen_stages: from 0, for what comes before the first map of stride 4 alone, to 4; -1 for nothing.
        freeze_norm: all batch normalisation of the network uses the statistics it has and leaves them alone; scales and
            shifts learn with their stage.
        channels: of every map of the pyramid.

    Raises:
        ValueError: a network without maps at all four strides.
    """

    def __init__(self, network: nn.Module, *, frozen_stages: int, freeze_norm: bool, channels: int) -> None:
        super().__init__()
        levels = _levels_of(network)
        freeze(network, levels, frozen_stages)
        used = [levels[stride] for stride in STRIDES]
        self.body = FeatureGetterNet(network, out_indices=tuple(level.number for level in used))
        self.fpn = FeaturePyramidNetwork([level.channels for level in used], channels, LastLevelMaxPool())
        self.out_channels = channels
        self.freeze_norm = freeze_norm

    def forward(self, images: Images) -> OrderedDict[str, Tensor]:
        """Maps at strides 4 to 64 of normalised images, by name."""
        maps = self.body(images)
        return self.fpn(OrderedDict((str(i), map_) for i, map_ in enumerate(maps)))

    def train(self, mode: bool = True) -> "PyramidBackbone":
        """Training mode, but not for what is frozen."""
        super().train(mode)
        for module in self.body.modules():
            if _is_frozen(module) or (self.freeze_norm and isinstance(module, _BatchNorm)):
                module.eval()
        return self


def _levels_of(network: nn.Module) -> dict[int, Level]:
    """The network's last map of every stride, by stride.

    Raises:
        ValueError: there are none of some stride that a detector needs.
    """
    known: Any = getattr(network, "feature_info", None)
    listed: list[dict[str, Any]] = list(getattr(known, "info", known) or [])
    last = {info["reduction"]: Level(number, info["num_chs"]) for number, info in enumerate(listed)}
    if not set(STRIDES) <= set(last) or not hasattr(network, "forward_intermediates"):
        found = ", ".join(map(str, sorted(last))) or "none that are known"
        raise ValueError(f"{type(network).__name__} has maps of strides {found}; a detector needs 4, 8, 16 and 32")
    return last


@torch.enable_grad()
def freeze(network: nn.Module, levels: dict[int, Level], stages: int) -> None:
    """Stops the learning of all that the map of stage `stages` depends on, and of what no map depends on.

    Which parameters these are is seen from the gradients of a pass in evaluation mode, whatever the network is. A
    mechanism is frozen with its stage, though some of it may speak to the next stage only.

    Raises:
        ValueError: there are not so many stages.
    """
    if not -1 <= stages <= len(STRIDES):
        raise ValueError(f"frozen_stages is {stages}; it is from -1 (nothing) to {len(STRIDES)} (all)")
    maps = _example_maps(network, levels)
    used = _upstream(network, [maps[stride] for stride in STRIDES])
    frozen = _upstream(network, [map_ for stride, map_ in maps.items() if stride <= 2 ** (stages + 1)])
    for module in network.modules():
        if isinstance(module, Mechanism) and frozen & set(module.parameters()):
            frozen |= set(module.parameters())
    for parameter in network.parameters():
        parameter.requires_grad_(parameter in used and parameter not in frozen)


def _example_maps(network: nn.Module, levels: dict[int, Level]) -> dict[int, Tensor]:
    """The network's maps of a small image, by stride, with their history."""
    like, training = next(network.parameters()), network.training
    image = torch.ones(1, 3, PROBE, PROBE, device=like.device, dtype=like.dtype)
    chosen = [level.number for level in levels.values()]
    maps = network.eval().forward_intermediates(image, indices=chosen, intermediates_only=True)  # pyright: ignore[reportCallIssue]  # timm's protocol
    network.train(training)
    return dict(zip(levels, maps, strict=True))


def _upstream(network: nn.Module, maps: list[Tensor]) -> set[nn.Parameter]:
    """The parameters that some map depends on."""
    if not maps:
        return set()
    parameters = list(network.parameters())
    total = torch.stack([map_.sum() for map_ in maps]).sum()
    gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    return {parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters and none of them learns."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
