"""Augmented images for training: a function of (seed, epoch, step, image), however they are computed."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from typing import Generic, NamedTuple, TypeVar, final

import torch
from torch import Tensor

from crosslayer.data.augment import Draws, crop_and_flip, draw
from crosslayer.data.images import Batch, Images, Indices
from crosslayer.data.rng import AUGMENTATION, generator

BatchT = TypeVar("BatchT")


class Part(NamedTuple):
    """Some rows of one step's global batch."""

    key: tuple[int, int]
    """Seed and epoch."""
    step: int
    """Step within the epoch."""
    indices: Indices
    """Which images."""
    first: int
    """Place of the first of them in the global batch."""
    whole: int
    """Images of the global batch."""


class TrainingImages(ABC, Generic[BatchT]):
    """A training split that hands out augmented parts of batches."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, plan: Iterable[Part]) -> Generator[BatchT]:
        """One augmented batch for every part of the plan, in order."""

    def order(self, chance: torch.Generator, part_size: int) -> Tensor:
        """The order of an epoch, which is cut into parts of `part_size` images."""
        return torch.randperm(len(self), generator=chance)

    @abstractmethod
    def close(self) -> None:
        """Ends what works in the background."""


@final
class PadCrops(TrainingImages[Batch]):
    """Images of one size, on the device: black padding, a random crop of the same size, a mirror by chance.

    Args:
        images: the training split.
        pad: pixels of black around an image.
        flip: mirror every second image, by chance.
    """

    def __init__(self, images: Images, pad: int, flip: bool) -> None:
        self.images, self.pad, self.flip = images, pad, flip

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, plan: Iterable[Part]) -> Generator[Batch]:
        """Every part with its own share of the global batch's draws; small parts are cut out several at once."""
        ahead, groups = itertools.tee(self.grouped(plan))
        wanted = (torch.cat([part.indices for part in group]) for group in ahead)
        for batch, group in zip(self.images.batches(wanted), groups, strict=True):
            draws = Draws(*map(torch.cat, zip(*map(self.draws, group), strict=True)))
            sizes = [len(part.indices) for part in group]
            cropped = crop_and_flip(batch.pixels, draws, self.pad)
            yield from map(Batch, cropped.split(sizes), batch.labels.split(sizes))

    def grouped(self, plan: Iterable[Part]) -> Generator[list[Part]]:
        """The plan in as many parts at once as the images are best asked for."""
        parts = iter(plan)
        for part in parts:
            others = self.images.together // len(part.indices) - 1
            yield [part, *itertools.islice(parts, max(0, others))]

    def draws(self, part: Part) -> Draws:
        """A part's share of what chance decides for the global batch."""
        chance = generator(part.key[0], AUGMENTATION, part.key[1], part.step)
        drawn = draw(chance, part.whole, self.pad, self.flip)
        return Draws(*(values[part.first : part.first + len(part.indices)] for values in drawn))

    def close(self) -> None:
        """Nothing does."""
