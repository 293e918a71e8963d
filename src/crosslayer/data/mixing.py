"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899), as timm has them, from seeds."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from crosslayer.data.rng import MIXING, seeded

Mixer = Callable[[Tensor, Tensor, tuple[int, ...]], tuple[Tensor, Tensor]]


def mixer(mixup: float, cutmix: float, num_classes: int) -> Mixer:
    """A function of images, classes and a key: images mixed in pairs, and each one's mass on every class.

    Args:
        mixup: α of mixup's Beta distribution; 0 for none.
        cutmix: α of CutMix's; 0 for none. With both, each part of a batch gets one or the other.
        num_classes: width of the targets.
    """
    from timm.data.mixup import Mixup

    mix = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=num_classes)

    def mixed(images: Tensor, labels: Tensor, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        np.random.seed(seeded(key[0], MIXING, *key[1:]) % 2**32)  # timm draws from NumPy's own generator
        return mix(images, labels)

    return mixed


def unmixed(images: Tensor, labels: Tensor, _: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images and classes as they are."""
    return images, labels
