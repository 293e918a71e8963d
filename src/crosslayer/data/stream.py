"""The order and the chance of training: a function of (seed, epoch, step) alone.

A step's global batch, its crops and its flips are the same whatever the number of processes, of workers or of
accumulated parts, and whether training was interrupted; processes take disjoint shares of each batch.
"""

import dataclasses
from collections.abc import Generator
from contextlib import closing
from typing import Generic, final

from torch import Tensor

from crosslayer.data.rng import ORDER, generator
from crosslayer.data.training_images import BatchT, Part, TrainingImages
from crosslayer.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Shares:
    """Which parts of every global batch this process takes: `count` of them from `first`, out of `total`."""

    first: int
    count: int
    total: int


@final
class TrainingStream(Generic[BatchT]):
    """Shuffled, augmented batches, epoch by epoch; the last images that fill no batch are left out.

    Args:
        images: the training split, augmented.
        batch_size: images of one optimizer step, over all processes.
        shares: this process's parts of it.
        seed: of the run.
        paired: images of a part are mixed in pairs.

    Raises:
        UsageError: fewer images than a batch, or a batch that cannot be shared evenly, or not in pairs.
    """

    def __init__(
        self, images: TrainingImages[BatchT], *, batch_size: int, shares: Shares, seed: int, paired: bool = False
    ) -> None:
        if len(images) < batch_size:
            raise UsageError(
                f"the training set has {len(images)} images, fewer than one batch of {batch_size}; lower --batch-size"
            )
        if batch_size % shares.total:
            raise UsageError(
                f"--batch-size {batch_size} cannot be cut evenly into {shares.total} parts (processes × --accumulate)"
            )
        self.part_size = batch_size // shares.total
        if paired and self.part_size % 2:
            raise UsageError(
                f"--mixup and --cutmix mix images in pairs: a part of a batch has {self.part_size} images, an odd "
                "number; change --batch-size or --accumulate"
            )
        self.images, self.batch_size, self.shares, self.seed = images, batch_size, shares, seed
        self.steps_per_epoch = len(images) // batch_size

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[list[BatchT]]:
        """The steps of an epoch from `first_step`: this process's parts of each one's batch."""
        order = self.images.order(generator(self.seed, ORDER, epoch), self.part_size)
        steps = range(first_step, self.steps_per_epoch)
        plan = (self.part(order, epoch, step, share) for step in steps for share in range(self.shares.count))
        with closing(self.images.batches(plan)) as parts:
            for _ in steps:
                yield [next(parts) for _ in range(self.shares.count)]

    def part(self, order: Tensor, epoch: int, step: int, share: int) -> Part:
        """One of this process's parts of a step's batch."""
        first = (self.shares.first + share) * self.part_size
        start = step * self.batch_size + first
        indices = order[start : start + self.part_size].clone()  # a slice would be sent to workers with all of it
        return Part((self.seed, epoch), step, indices, first, self.batch_size)
