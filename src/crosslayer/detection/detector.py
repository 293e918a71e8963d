"""Faster R-CNN (arXiv 1506.01497) and Mask R-CNN (1703.06870) with a feature pyramid, of torchvision's components."""

from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from crosslayer.detection.networks import Network, build_network
from crosslayer.detection.pyramid import PyramidBackbone
from crosslayer.mechanisms.registry import unknown_name

DetectorName = Literal["faster_rcnn", "mask_rcnn"]
DETECTORS: dict[str, type[FasterRCNN]] = {"faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN}


def create_detector(
    detector: DetectorName,
    backbone: str = "resnet50",
    mechanism: str = "none",
    num_classes: int = 80,
    weights: str | Path | None = None,
    *,
    graft: bool = False,
    frozen_stages: int = 1,
    freeze_norm: bool = True,
    pyramid_channels: int = 256,
    min_size: int | tuple[int, ...] = 800,
    max_size: int = 1333,
    resize_in_training: bool = True,
    **options: Any,
) -> FasterRCNN:
    """A detector over any network that has maps at strides 4, 8, 16 and 32.

    In evaluation mode it takes a list of images (3 × height × width, in [0, 1], of any size) and returns for each a
    dict of `boxes` (corners, in pixels), `labels` (1 to num_classes), `scores`, and with `mask_rcnn` `masks`.

    Args:
        detector: `faster_rcnn` or `mask_rcnn`.
        backbone: one of `list_backbones()`, or with `graft` any network of timm by name.
        mechanism: one of `list_mechanisms()`.
        num_classes: kinds of objects; the background, which torchvision counts as one more, is not among them.
        weights: of the backbone: a run directory of crosslayer's, a file (an authors' checkpoint or a state dict), or a
            name of timm's, which is downloaded. Weights of the plain network leave the mechanism fresh.
        graft: take the backbone from timm and graft the mechanism onto it.
        frozen_stages: stages that do not learn, with the stem and their mechanisms; 0 for the stem alone, -1 for none.
        freeze_norm: batch normalisation keeps its statistics, the mechanism's too; scales and shifts learn with their
            stage. Fresh networks want it off, and nothing frozen.
        pyramid_channels: channels of every map of the pyramid.
        min_size: pixels that an image's shorter side is scaled to; of several, training draws one for every image.
        max_size: pixels that the longer side may then have.
        resize_in_training: scale images in training too; off where they come in their final size.
        options: the mechanism's own, as `crosslayer list` prints them.

    Raises:
        ValueError: an unknown name or option, a bad value, weights of another network, or a network without such maps.
    """
    if detector not in DETECTORS:
        raise ValueError(unknown_name("detector", detector, DETECTORS))
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; a detector has at least one class")
    network = build_network(backbone, mechanism, options, grafted=graft, weights=weights)
    body = PyramidBackbone(
        network.model, frozen_stages=frozen_stages, freeze_norm=freeze_norm, channels=pyramid_channels
    )
    model = DETECTORS[detector](
        body,
        num_classes=num_classes + 1,
        min_size=min_size,  # pyright: ignore[reportArgumentType]  # torchvision takes several, unannotated
        max_size=max_size,
    )
    model.transform = _Transform(min_size, max_size, network, resize_in_training=resize_in_training)
    return model


@final
class _Transform(GeneralizedRCNNTransform):
    """Torchvision's scaling and normalisation, of strips too; mean and deviation follow the detector's weights."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self, min_size: int | tuple[int, ...], max_size: int, network: Network, *, resize_in_training: bool
    ) -> None:
        super().__init__(min_size, max_size, [], [], _skip_resize=not resize_in_training)  # pyright: ignore[reportArgumentType]  # torchvision takes several sides, unannotated
        for name, value in (("image_mean", network.mean), ("image_std", network.std)):
            delattr(self, name)
            self.register_buffer(name, torch.tensor(value))

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """An image whose longer side would take the last pixel of the shorter one keeps that pixel."""
        height, width = image.shape[-2:]
        if min(height, width) * self.max_size > max(height, width) or (self.training and self._skip_resize):
            return super().resize(image, target)
        scale = self.max_size / max(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        image = interpolate(image[None], size, mode="bilinear")[0]
        if target is not None:
            target["boxes"] = resize_boxes(target["boxes"], [height, width], list(size))
            if "masks" in target:
                target["masks"] = interpolate(target["masks"][:, None].float(), size)[:, 0].byte()
        return image, target
