import dataclasses
from pathlib import Path
from typing import Any, Generic, TypeVar

from crosslayer.console import console
from crosslayer.errors import UsageError
from crosslayer.mechanisms.registry import unknown_name
from crosslayer.reports.curves import draw_curves
from crosslayer.training.launch import Launch
from crosslayer.training.option_groups import parse_groups
from crosslayer.training.recipe import Recipe, TrainingRecipe, differing, flag, recipe_types
from crosslayer.training.recipe_file import DEFAULT, read_recipe_file
from crosslayer.training.recipes import EXTENDABLE, RECIPES
from crosslayer.training.run_directory import CURVES, SUMMARY, RunDirectory
from crosslayer.training.task import SCORES
from crosslayer.training.trainer import train

RecipeT = TypeVar("RecipeT", bound=TrainingRecipe)


@dataclasses.dataclass(frozen=True)
class _File:
    """Where the defaults of the options come from."""

    recipe: str | None = None
    """File with the defaults of the options: a run's recipe.json, or fields in JSON, TOML or YAML."""


@dataclasses.dataclass(frozen=True)
class Options(Generic[RecipeT]):
    """What to train, and where."""

    recipe: RecipeT
    run: Launch


def run(words: list[str]) -> None:
    """Crosslayer train [RECIPE] [OPTION …]."""
    words, named = _without_recipe(words)
    name, default = _stored_or_named(words, named)
    prog = f"crosslayer train {named or '[RECIPE]'}"
    recipe, launch, file = parse_groups((default, Launch(), _File()), words, prog, description())
    options = Options(recipe, launch)
    if file.recipe != _value_of("--recipe", words):
        raise UsageError("--recipe is given twice; name one file")
    if options.run.resume:
        _check_resumable(options, default)
    run_directory = train(name, options.recipe, options.run)
    finish(run_directory)


def _without_recipe(words: list[str]) -> tuple[list[str], str | None]:
    """The words without the recipe's name, and that name: the first word, or one that is no option's value."""
    parts = (*recipe_types(), Launch)
    takers = {flag(field.name) for part in parts for field in dataclasses.fields(part) if _takes_text(field)}
    takers.add("--recipe")
    for i, word in enumerate(words):
        if (i == 0 and not word.startswith("-")) or (word in RECIPES and words[i - 1] not in takers):
            if word not in RECIPES:
                raise UsageError(unknown_name("recipe", word, RECIPES))
            return words[:i] + words[i + 1 :], word
    return words, None


def _takes_text(field: dataclasses.Field[Any]) -> bool:
    """Whether any one word can be an option's value."""
    return field.type in (str, str | None)


def _stored_or_named(words: list[str], named: str | None) -> tuple[str, TrainingRecipe]:
    """The defaults of the options: a recipe's, a file's, or those of the run to go on with."""
    resumed, file = _value_of("--resume", words), _value_of("--recipe", words)
    if resumed is not None and file is not None:
        raise UsageError("--resume goes on with the run's own recipe; leave --recipe out")
    if file is not None:
        return read_recipe_file(Path(file), named)
    if resumed is None:
        return named or DEFAULT, RECIPES[named or DEFAULT]()
    name, recipe, _ = RunDirectory(resumed).read()
    if named is not None and named != name:
        raise UsageError(f"run {resumed} was made by recipe {name!r}, not {named!r}")
    return name, recipe


def _value_of(option: str, words: list[str]) -> str | None:
    """The value given to an option, before the options are parsed."""
    for i, word in enumerate(words):
        if word == option and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(option + "="):
            return word.partition("=")[2]
    return None


def _check_resumable(options: Options[Any], stored: TrainingRecipe) -> None:
    """Raises UsageError for options that would make another run of it."""
    changed = [field for field in differing(options.recipe, stored) if field not in EXTENDABLE]
    if changed:
        was = ", ".join(f"{flag(field)} {getattr(stored, field)}" for field in changed)
        raise UsageError(f"run {options.run.resume} was made with {was}; a resumed run keeps its recipe")
    if isinstance(stored, Recipe) and stored.schedule != "milestones" and options.recipe.epochs != stored.epochs:
        raise UsageError(
            f"run {options.run.resume} has a rate that falls to zero over --epochs {stored.epochs} and cannot be given "
            "others; begin a new run"
        )
    if options.run.output or options.run.overwrite:
        raise UsageError("--resume goes on in the run's own directory; leave --output and --overwrite out")


def description() -> str:
    """What --help begins with."""
    recipes = "\n".join(f"  {name}: {(recipe.__doc__ or '').splitlines()[0]}" for name, recipe in RECIPES.items())
    return f"Train a classifier or a detector. RECIPE [default: digits] gives every option its default:\n{recipes}"


def finish(run_directory: RunDirectory) -> None:
    """Draws the curves and says where everything is."""
    rows = run_directory.metrics()
    name, recipe, _ = run_directory.read()
    title = f"{recipe.backbone} + {recipe.mechanism} on {name}, seed {recipe.seed}"
    draw_curves(rows, recipe.task, title, run_directory / CURVES)
    score = SCORES[recipe.task]
    summary = run_directory.summary("wall_seconds", f"last.{score.metric}", f"best.{score.metric}", "best.epoch")
    if summary:
        console.print(
            f"{score.name} {summary['last'][score.metric]:.2f} % after the last epoch, "
            f"{summary['best'][score.metric]:.2f} % at best (epoch {summary['best']['epoch']}), "
            f"{summary['wall_seconds']:.1f} s\n"
            f"summary: {run_directory / SUMMARY}\ncurves:  {run_directory / CURVES}"
        )
