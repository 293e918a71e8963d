"""Mixup (arXiv 1710.09412), CutMix (arXiv 1905.04899) and random erasing (arXiv 1708.04896) of timm, from seeds."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from crosslayer.data.rng import ERASING, MIXING, seed_global_generators, seeded

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


def eraser(probability: float) -> Callable[[Tensor, tuple[int, ...]], Tensor]:
    """A function of normalised images and a key: each image with, by chance, a rectangle of noise, in place.

    The rectangle has 2 to 33 % of the image's area and sides of at most 10 to 3, as in timm's `pixel` mode.
    """
    from timm.data.random_erasing import RandomErasing

    erase = RandomErasing(probability, mode="pixel", device="cpu")  # noise of the same numbers on any device

    def erased(images: Tensor, key: tuple[int, ...]) -> Tensor:
        with torch.random.fork_rng(devices=[]):  # the network's own draws go on from where they were
            seed_global_generators(key[0], ERASING, *key[1:])
            return erase(images)

    return erased
