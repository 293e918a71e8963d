"""From a study to runs: what each trains, where it goes, and what of it is done."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from crosslayer.errors import UsageError
from crosslayer.mechanisms.registry import unknown_name
from crosslayer.reproduce import filters
from crosslayer.reproduce.filters import chosen_cells
from crosslayer.reproduce.study import Cell, Study
from crosslayer.training.recipe import TrainingRecipe
from crosslayer.training.recipes import RECIPES
from crosslayer.training.run_directory import SUMMARY, RunDirectory

RUNS = "runs"
State = Literal["finished", "broken", "absent"]


@dataclasses.dataclass(frozen=True)
class Planned:
    """One cell with one seed."""

    cell: Cell
    published: TrainingRecipe
    """The cell's recipe as it is, for this seed and these data."""
    recipe: TrainingRecipe
    """As it is run."""
    path: Path

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path.name

    @property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """What is reduced."""
        return filters.changes(self.recipe, self.published)

    def state(self) -> State:
        """How far it is.

        Raises:
            UsageError: the folder holds a run of another recipe.
        """
        run = RunDirectory(self.path)
        if not run.holds_run():
            return "absent"
        stored = _as_json(type(self.recipe)()) | run.recipe_record().fields()
        ours = _as_json(self.recipe)
        for name in ours.keys() - {"data"}:
            if stored.get(name) != ours[name]:
                raise UsageError(
                    f"run {self.path} was made with {name} {stored.get(name)}, not {ours[name]}; give another --output"
                )
        return "finished" if (self.path / SUMMARY).exists() else "broken"

    def words(self) -> list[str]:
        """The words of `crosslayer` that make the run, or go on with it."""
        if self.state() == "broken":
            return ["train", "--resume", str(self.path)]
        return [*self.fresh_words(), "--output", str(self.path)]

    def fresh_words(self) -> list[str]:
        """The words that train it from the beginning, but for where."""
        return filters.train_words(self.cell.recipe, self.recipe, RECIPES[self.cell.recipe]())


@dataclasses.dataclass(frozen=True)
class Request:
    """Which part of a study, how reduced, and where it goes."""

    study: Study
    seeds: tuple[int, ...]
    output: Path
    only: tuple[str, ...] = ()
    recipe: str | None = None
    """Trains instead of the study's own."""
    epochs: int | None = None
    data: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


def plan(request: Request) -> list[Planned]:
    """Every run of the request, seeds within cells.

    Raises:
        UsageError: a recipe that this version lacks, or settings that cannot be.
    """
    cells = chosen_cells(request.study, request.only)
    if request.recipe:
        cells = tuple(_by_recipe(cell, request.recipe) for cell in cells)
    for cell in cells:
        if cell.recipe not in RECIPES:
            raise UsageError(f"{request.study.name} needs the recipe {cell.recipe!r}, which this crosslayer has not")
    data = _data_by_recipe(request.data, {cell.recipe for cell in cells})
    return [planned(request, cell, seed, data) for cell in cells for seed in request.seeds]


def _by_recipe(cell: Cell, name: str) -> Cell:
    """The cell trained by another recipe, for which the paper prints nothing.

    Raises:
        UsageError: there is no such recipe, or it is of another task.
    """
    if name not in RECIPES:
        raise UsageError(f"--recipe: {unknown_name('recipe', name, RECIPES)}")
    if RECIPES[name]().task != RECIPES[cell.recipe]().task:
        raise UsageError(f"--recipe {name} is for {RECIPES[name]().task}, the study's {cell.recipe} for another task")
    metrics = tuple(dataclasses.replace(metric, printed=None) for metric in cell.metrics)
    return dataclasses.replace(cell, recipe=name, network=f"{cell.network}, {name}", metrics=metrics)


def _as_json(recipe: TrainingRecipe) -> dict[str, Any]:
    """Its fields as a record has them."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def planned(request: Request, cell: Cell, seed: int, data: dict[str, str]) -> Planned:
    """A cell with a seed."""
    published = filters.set_fields(RECIPES[cell.recipe](), cell.settings)
    published = dataclasses.replace(published, **cell.changes, seed=seed)
    if cell.recipe in data:
        published = dataclasses.replace(published, data=data[cell.recipe])
    recipe = filters.with_settings(published, request.epochs, request.settings)
    return Planned(cell, published, recipe, request.output / RUNS / _folder_name(request, cell, seed))


def _folder_name(request: Request, cell: Cell, seed: int) -> str:
    """What distinguishes a run from all others of an output folder; studies share runs that are the same."""
    words = [
        *cell.options,
        *cell.settings,
        *([f"epochs={request.epochs}"] if request.epochs else []),
        *request.settings,
    ]
    return "-".join([cell.recipe, cell.backbone, cell.mechanism, *map(_in_a_name, words), f"seed{seed}"])


def _in_a_name(setting: str) -> str:
    """NAME=VALUE as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.,_]", "_", setting)


def _data_by_recipe(given: Sequence[str], recipes: set[str]) -> dict[str, str]:
    """Recipe → data, of `--data DIR` or `--data RECIPE=DIR …`.

    Raises:
        UsageError: one folder for several data sets, or a recipe that is not of the study.
    """
    if len(given) == 1 and not given[0].startswith(tuple(f"{name}=" for name in RECIPES)):
        if len(recipes) > 1:
            wanted = " ".join(f"{name}=DIR" for name in sorted(recipes))
            raise UsageError(f"--data {given[0]}: this study has several data sets; write --data {wanted}")
        return dict.fromkeys(recipes, given[0])
    pairs = {name: folder for name, _, folder in (word.partition("=") for word in given)}
    for name, folder in pairs.items():
        if name not in recipes or not folder:
            raise UsageError(f"--data {name}: write RECIPE=DIR, with a recipe of {', '.join(sorted(recipes))}")
    return pairs
