"""The order and the chance of training: a function of (seed, epoch, step) alone.

A step's global batch, its crops and its flips are the same whatever the number of processes, of workers or of
accumulated parts, and whether training was interrupted; processes take disjoint shares of each batch.
"""

import dataclasses
from collections.abc import Iterator
from typing import final

import numpy as np
import torch
from torch import Tensor

from crosslayer.data.augment import crop_and_flip, draw
from crosslayer.data.images import Batch, Images
from crosslayer.errors import UsageError

ORDER, AUGMENTATION, MODEL = range(3)
"""What a generator is for: no two uses share a sequence."""


def seeded(*key: int) -> int:
    """One seed from several numbers, well mixed."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def generator(*key: int) -> torch.Generator:
    """A CPU generator for one use."""
    return torch.Generator().manual_seed(seeded(*key))


@dataclasses.dataclass(frozen=True)
class Shares:
    """Which parts of every global batch this process takes: `count` of them from `first`, out of `total`."""

    first: int
    count: int
    total: int

    def cut(self, tensor: Tensor) -> list[Tensor]:
        """This process's parts of a global batch."""
        return list(tensor.chunk(self.total)[self.first : self.first + self.count])


@final
class TrainingStream:
    """Shuffled, augmented batches, epoch by epoch; the last images that fill no batch are left out.

    Args:
        images: the training split.
        batch_size: images of one optimizer step, over all processes.
        shares: this process's parts of it.
        seed: of the run.
        pad: pixels of black around an image before a crop of its own size.
        flip: mirror every second image, by chance.

    Raises:
        UsageError: fewer images than a batch, or a batch that cannot be shared evenly.
    """

    def __init__(self, images: Images, *, batch_size: int, shares: Shares, seed: int, pad: int, flip: bool) -> None:
        if len(images) < batch_size:
            raise UsageError(
                f"the training set has {len(images)} images, fewer than one batch of {batch_size}; lower --batch-size"
            )
        if batch_size % shares.total:
            raise UsageError(
                f"--batch-size {batch_size} cannot be cut evenly into {shares.total} parts (processes × --accumulate)"
            )
        self.images, self.batch_size, self.shares, self.seed = images, batch_size, shares, seed
        self.pad, self.flip = pad, flip
        self.steps_per_epoch = len(images) // batch_size

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """The steps of an epoch from `first_step`: this process's parts of each one's batch."""
        order = torch.randperm(len(self.images), generator=generator(self.seed, ORDER, epoch))
        steps = range(first_step, self.steps_per_epoch)
        plan = (part for step in steps for part in self.shares.cut(self.batch_indices(order, step)))
        parts = self.images.batches(plan)
        for step in steps:
            yield [self.augmented(next(parts), epoch, step, share) for share in range(self.shares.count)]

    def batch_indices(self, order: Tensor, step: int) -> Tensor:
        """The global batch of a step."""
        return order[step * self.batch_size : (step + 1) * self.batch_size]

    def augmented(self, batch: Batch, epoch: int, step: int, share: int) -> Batch:
        """One part with its own share of the global batch's draws."""
        chance = generator(self.seed, AUGMENTATION, epoch, step)
        draws = draw(chance, self.batch_size, self.pad, self.flip)
        own = type(draws)(*(self.shares.cut(part)[share] for part in draws))
        return Batch(crop_and_flip(batch.pixels, own, self.pad), batch.labels)
