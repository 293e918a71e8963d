"""Random resized crops (arXiv 1409.4842) and RandAugment, computed by worker processes a few batches ahead.

timm's RandAugment draws from Python's and NumPy's own generators, of which a process has one each: threads would race
for them, processes do not. Every image seeds them anew, so the number of workers changes nothing.
"""

import functools
from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from crosslayer.data.decode import Interpolation, opened, upright_rgb
from crosslayer.data.images import Batch
from crosslayer.data.rng import AUGMENTATION, seed_global_generators
from crosslayer.data.split import Split
from crosslayer.data.training_images import Part, TrainingImages
from crosslayer.data.workers import Workers
from crosslayer.errors import FailedError

Transform = Callable[[Image.Image], Image.Image]


class Augmentation(NamedTuple):
    """What chance does to an image.

    Args:
        size: side of the result, in pixels.
        crop_scale: least area of the crop, as a share of the image's.
        flip: mirror every second image, by chance.
        rand_augment: timm's configuration string, or none.
        interpolation: how pixels are scaled.
    """

    size: int
    crop_scale: float = 0.08
    flip: bool = True
    rand_augment: str | None = None
    interpolation: Interpolation = "bicubic"

    def transform(self) -> Transform:
        """The transforms of torchvision and timm, in their usual order."""
        mode = transforms.InterpolationMode(self.interpolation)
        steps: list[Transform] = [transforms.RandomResizedCrop(self.size, (self.crop_scale, 1.0), interpolation=mode)]
        if self.flip:
            steps.append(transforms.RandomHorizontalFlip())
        if self.rand_augment:
            steps.append(rand_augment(self.rand_augment, self.size))
        return transforms.Compose(steps)


def rand_augment(config: str, size: int) -> Transform:
    """Timm's RandAugment; translations reach as far as in timm's own training.

    Raises:
        ValueError: no such configuration.
    """
    from timm.data.auto_augment import rand_augment_transform

    try:
        return rand_augment_transform(config, {"translate_const": int(size * 0.45), "img_mean": (128, 128, 128)})
    except (AssertionError, ValueError, KeyError) as error:
        raise ValueError(f"{config!r} is no RandAugment configuration of timm such as rand-m9-mstd0.5-inc1") from error


@final
class AugmentedDataset(Dataset[tuple[Tensor, Tensor] | FailedError]):
    """What a worker works with: a part of the plan in, its pixels and labels out."""

    def __init__(self, split: Split, augmentation: Augmentation) -> None:
        self.split, self.augmentation = split, augmentation

    @functools.cached_property
    def transform(self) -> Transform:
        """Built where it is used: RandAugment cannot be sent to a process."""
        return self.augmentation.transform()

    def __getitem__(self, part: Part) -> tuple[Tensor, Tensor] | FailedError:
        """Pixels, batch × size × size × 3, and labels; or an image's fault: raised, it would lose its words."""
        indices = part.indices.numpy()
        try:
            pixels = np.stack([self.augmented(part.key, int(i)) for i in indices])
        except FailedError as error:
            return error
        return torch.from_numpy(pixels), torch.from_numpy(self.split.labels[indices])

    def augmented(self, key: tuple[int, int], i: int) -> np.ndarray:
        """Image i, as (seed, epoch, i) has it."""
        seed, epoch = key
        with opened(self.split, i) as image:
            rgb = upright_rgb(image)
        seed_global_generators(seed, AUGMENTATION, epoch, i)
        try:
            return np.asarray(self.transform(rgb))
        except ValueError as error:  # a magnitude that Pillow refuses, as rand-m1 has for posterising
            config, name = self.augmentation.rand_augment, self.split.name(i)
            raise FailedError(f"--rand-augment {config} cannot be applied to {name}: {error}") from error


@final
class ResizedCrops(TrainingImages[Batch]):
    """Random resized crops of images of any size, decoded and augmented by `workers` processes (0: by this one)."""

    def __init__(self, split: Split, augmentation: Augmentation, device: torch.device, workers: int) -> None:
        self.split, self.device = split, device
        dataset = AugmentedDataset(split, augmentation)
        self.workers: Workers[Part, tuple[Tensor, Tensor]] = Workers(dataset, workers, pinned=device.type == "cuda")

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, plan: Iterable[Part]) -> Generator[Batch]:
        """The parts in order, whatever worker was first.

        Raises:
            FailedError: an image that cannot be decoded, or a worker that ended.
        """
        for loaded in self.workers.fetch(plan):
            pixels, labels = (tensor.to(self.device, non_blocking=True) for tensor in loaded)
            yield Batch(pixels.permute(0, 3, 1, 2), labels)

    def close(self) -> None:
        """Ends the workers."""
        self.workers.close()
