"""The data sets of the paper, and whether runs were trained on them."""

from collections.abc import Sequence
from typing import NamedTuple

from crosslayer.reproduce.results import Finished
from crosslayer.training.recipe import Recipe
from crosslayer.training.run_directory import RunDirectory


class DataSet(NamedTuple):
    """How large a data set is."""

    train: int
    val: int
    classes: int


SIZES = {
    "cifar10": DataSet(50_000, 10_000, 10),
    "cifar100": DataSet(50_000, 10_000, 100),
    "cifar10_budget": DataSet(50_000, 10_000, 10),
    "cifar100_budget": DataSet(50_000, 10_000, 100),
    "imagenet": DataSet(1_281_167, 50_000, 1000),
}


def other_data(finished: Sequence[Finished]) -> list[str]:
    """What tells that runs had other data than the published ones, in words; each once."""
    return list(dict.fromkeys(difference for run in finished if (difference := _differing_data(run))))


def _differing_data(finished: Finished) -> str:
    """How the data of one run differ: by the number of classes, or of steps per epoch; empty if neither does."""
    known, recipe = SIZES.get(finished.run.cell.recipe), finished.run.recipe
    if known is None:
        return ""
    classes = len(RunDirectory(finished.run.path).recipe_record().data.classes)
    if classes != known.classes:
        return f"data with {classes} classes (data set: {known.classes})"
    images = round(known.train * (1 - recipe.val_split)) if isinstance(recipe, Recipe) else known.train
    per_epoch, expected = finished.rows[0]["step"], images // recipe.batch_size
    if per_epoch != min(expected, recipe.max_steps or expected):
        return f"about {per_epoch * recipe.batch_size:,} training images (data set: {known.train:,})"
    return ""
