"""What the loop leaves open: what is learned from what, and how well."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic

from torch import Tensor, nn

from crosslayer.data.training_images import BatchT, TrainingImages
from crosslayer.training.run_directory import DataFacts

Key = tuple[int, int, int, int]
"""Seed, epoch, step within it, and part of the batch: what chance is a function of."""
Row = Mapping[str, Any]
"""An epoch's figures: `train/…` and `val/…` beside the epoch, the step, the rate and the speed."""


class Task(ABC, Generic[BatchT]):
    """A loss over a training split, and figures of a validation split."""

    facts: DataFacts
    """What the network is told of the data."""
    images: TrainingImages[BatchT]
    """The training split, augmented."""
    paired: bool = False
    """Whether a part of a batch must have an even number of images."""
    measures: tuple[str, ...]
    """What every step is measured by, the loss first."""

    @abstractmethod
    def describe(self) -> str:
        """The data, in words."""

    @abstractmethod
    def rate_factor(self, step: int, steps_per_epoch: int) -> float:
        """What every learning rate is multiplied with at a step."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: BatchT, key: Key) -> tuple[Tensor, Tensor]:
        """A part's mean loss, with its history, and its `measures`, without; over a step's parts these add up."""

    @abstractmethod
    def figures(self, sums: Mapping[str, float], steps: int) -> dict[str, float]:
        """The figures `train/…` of some steps, from the sums of their measures."""

    @abstractmethod
    def validate(self, model: nn.Module) -> dict[str, float | None]:
        """The figures `val/…` of a network, None where there is nothing to measure; the same in every process."""

    @abstractmethod
    def words(self, row: Row, split: str) -> str:
        """A split's figures (`train` or `val`) for a line of text."""

    @abstractmethod
    def size(self) -> dict[str, Any]:
        """Parameters and cost of the network, for the summary."""
