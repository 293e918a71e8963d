"""Which task a recipe is for."""

from typing import Any

from accelerate import Accelerator

from crosslayer.detection.recipe import DetectionRecipe
from crosslayer.training.classification import Classification
from crosslayer.training.launch import Launch
from crosslayer.training.recipe import Recipe, TrainingRecipe
from crosslayer.training.run_directory import DataFacts
from crosslayer.training.task import Task


def load_task(
    name: str, recipe: TrainingRecipe, launch: Launch, accelerator: Accelerator, known: DataFacts | None
) -> Task[Any]:
    """The recipe's task, with its data; `known` is what a resumed run has been told of them.

    Raises:
        UsageError: no data was named, or none that fits.
        FailedError: data that cannot be read.
    """
    if isinstance(recipe, DetectionRecipe):
        from crosslayer.detection.task import Detection  # brings torchvision's detectors, which classifiers need not

        return Detection(recipe, launch, accelerator, known)
    assert isinstance(recipe, Recipe)
    return Classification(name, recipe, launch, accelerator, known)
