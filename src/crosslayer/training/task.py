"""What the loop leaves open: what is learned from what, and how well; tasks are found by their names."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from accelerate import Accelerator
from torch import Tensor, nn

from crosslayer.data.training_images import BatchT, TrainingImages
from crosslayer.training.launch import Launch
from crosslayer.training.recipe import TaskName, TrainingRecipe
from crosslayer.training.records import DatasetInfo

if TYPE_CHECKING:
    from crosslayer.training.task import Task


class Score(NamedTuple):
    """A figure of an epoch's row, in %, higher being better, and its name."""

    metric: str
    name: str


SCORES: dict[TaskName, Score] = {
    "classification": Score("val/top1", "top-1"),
    "detection": Score("val/ap", "box AP"),
}


Key = tuple[int, int, int, int]
"""Seed, epoch, step within it, and part of the batch: what chance is a function of."""
Row = Mapping[str, Any]
"""An epoch's figures: `train/…` and `val/…` beside the epoch, the step, the rate and the speed."""


class Task(ABC, Generic[BatchT]):
    """A loss over a training split, and figures of a validation split."""

    dataset_info: DatasetInfo
    """What the network is told of the data."""
    images: TrainingImages[BatchT]
    """The training split, augmented."""
    paired: bool = False
    """Whether a part of a batch must have an even number of images."""
    loss_names: tuple[str, ...]
    """What every step is measured by, the loss first."""

    @classmethod
    @abstractmethod
    def load(
        cls, name: str, recipe: Any, launch: Launch, accelerator: Accelerator, known: DatasetInfo | None
    ) -> "Task[BatchT]":
        """The task of a recipe called `name`, with its data; `known` is what a resumed run has been told of them."""

    @staticmethod
    @abstractmethod
    def build_model(recipe: Any, num_classes: int, *, begin: bool = False) -> nn.Module:
        """The recipe's network; with `begin` it takes the weights that a run begins with."""

    @staticmethod
    @abstractmethod
    def parameter_groups(model: nn.Module, recipe: Any) -> list[dict[str, Any]]:
        """The parameters that learn, in groups named `backbone` and `graft` that each have a rate."""

    @staticmethod
    @abstractmethod
    def compile_model(model: nn.Module, options: dict[str, Any]) -> None:
        """Compiles, in place, what is the same for every image."""

    @abstractmethod
    def describe(self) -> str:
        """The data, in words."""

    @abstractmethod
    def rate_factor(self, step: int, steps_per_epoch: int) -> float:
        """What every learning rate is multiplied with at a step."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: BatchT, key: Key) -> tuple[Tensor, Tensor]:
        """A part's mean loss, with its history, and its `loss_names`, without; over a step's parts these add up."""

    @abstractmethod
    def metrics(self, sums: Mapping[str, float], steps: int) -> dict[str, float]:
        """The figures `train/…` of some steps, from the sums of their measures."""

    @abstractmethod
    def validate(self, model: nn.Module) -> dict[str, float | None]:
        """The figures `val/…` of a network, None where there is nothing to measure; the same in every process."""

    @abstractmethod
    def as_text(self, row: Row, split: str) -> str:
        """A split's figures (`train` or `val`) for a line of text."""

    @abstractmethod
    def size(self) -> dict[str, Any]:
        """Parameters and cost of the network, for the summary."""


class _Place(NamedTuple):
    """Where a task's class is; a detector's brings torchvision's detectors, which classifiers need not."""

    module: str
    name: str


_TASKS: dict[TaskName, _Place] = {
    "classification": _Place("crosslayer.training.classification", "Classification"),
    "detection": _Place("crosslayer.detection.task", "Detection"),
}


def task_of(recipe: TrainingRecipe) -> "type[Task[Any]]":
    """The class of a recipe's task."""
    place = _TASKS[recipe.task]
    return getattr(import_module(place.module), place.name)


def load_task(
    name: str, recipe: TrainingRecipe, launch: Launch, accelerator: Accelerator, known: DatasetInfo | None
) -> "Task[Any]":
    """The recipe's task, with its data; `known` is what a resumed run has been told of them.

    Raises:
        UsageError: no data was named, or none that fits.
        FailedError: data that cannot be read.
    """
    return task_of(recipe).load(name, recipe, launch, accelerator, known)
