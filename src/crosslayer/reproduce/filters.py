"""Which cells and seeds of a study are meant, and how it is reduced."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from crosslayer.errors import UsageError
from crosslayer.mechanisms.registry import unknown_name
from crosslayer.options import parse_options
from crosslayer.reproduce.study import Cell, Study
from crosslayer.training.recipe import Recipe, TrainingRecipe, check_bounds, flag

KINDS = ("recipe", "backbone", "mechanism", "variant")


def chosen_cells(study: Study, only: Sequence[str]) -> tuple[Cell, ...]:
    """The cells that `only` leaves: words for the same thing are alternatives, words for different things all hold.

    Args:
        study: has the cells.
        only: names of recipes, backbones, mechanisms and variants.

    Raises:
        UsageError: a word that names nothing in the study, or words that leave no cell.
    """
    known = {kind: {getattr(cell, kind) for cell in study.cells} for kind in KINDS}
    every = set().union(*known.values())
    for word in only:
        if word not in every:
            raise UsageError(f"--only: {unknown_name(f'word in {study.name}', word, every)}")
    wanted = [{word for word in only if kind in _kinds_of(word, known)} for kind in KINDS]
    cells = tuple(
        cell
        for cell in study.cells
        if all(not words or getattr(cell, kind) in words for kind, words in zip(KINDS, wanted, strict=True))
    )
    if not cells:
        raise UsageError(f"--only {' '.join(only)} leaves nothing of {study.name}")
    return cells


def _kinds_of(word: str, known: dict[str, set[str]]) -> list[str]:
    """What a word names: the first kind that has it, so that a variant named like its mechanism counts once."""
    return [kind for kind in KINDS if word in known[kind]][:1]


def chosen_seeds(text: str) -> tuple[int, ...]:
    """The seeds of `0-4`, `3`, or `0,2,5-7`.

    Raises:
        UsageError: it is none of these.
    """
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    except ValueError:
        seeds = []
    if not seeds:
        raise UsageError(f"--seeds {text}: write them as 0-4, as 0,1,2 or as one number")
    return tuple(dict.fromkeys(seeds))


NEUTRAL = {"data", "seed", "compile", "channels_last"}
"""Fields that leave an experiment what it is."""


def with_settings(recipe: TrainingRecipe, epochs: int | None, settings: Sequence[str]) -> TrainingRecipe:
    """The recipe with other epochs, to which milestones and warm-up are scaled, and other settings as NAME=VALUE.

    Raises:
        UsageError: an unknown setting, or a value outside its range.
    """
    return set_fields(recipe if epochs is None else scaled(recipe, epochs), settings)


def scaled(recipe: TrainingRecipe, epochs: int) -> TrainingRecipe:
    """The recipe in so many epochs, its schedule stretched with it."""
    check_bounds("epochs", epochs)
    share = epochs / recipe.epochs
    milestones = {round(share * milestone) for milestone in recipe.milestones}
    kept = tuple(sorted(milestone for milestone in milestones if 0 < milestone < epochs))
    fields: dict[str, Any] = {"epochs": epochs, "milestones": kept}
    if isinstance(recipe, Recipe):  # recipes of detection count their warm-up in steps
        fields["warmup_epochs"] = min(round(share * recipe.warmup_epochs), epochs - 1)
        if recipe.schedule == "step":
            fields["decay_epochs"] = share * recipe.decay_epochs
    return dataclasses.replace(recipe, **fields)


def set_fields(recipe: TrainingRecipe, settings: Sequence[str]) -> TrainingRecipe:
    """The recipe with fields given as NAME=VALUE, read as `crosslayer train` reads its options."""
    words: list[str] = []
    names = {field.name for field in dataclasses.fields(recipe)}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if not equals or name not in names:
            raise UsageError(f"--set {setting}: write it as NAME=VALUE with an option of crosslayer train")
        words += option_words(name, {"true": True, "false": False}.get(text.lower(), text.split(",")))
    return parse_options(type(recipe), words, "crosslayer train", default=recipe) if words else recipe


def option_words(name: str, value: Any) -> list[str]:
    """A field's value as words of a command line."""
    if isinstance(value, bool):
        return [flag(name) if value else flag(f"no_{name}")]
    return [flag(name), *(str(part) for part in (value if isinstance(value, (tuple, list)) else (value,)))]


def train_words(name: str, recipe: TrainingRecipe, published: TrainingRecipe) -> list[str]:
    """The words of `crosslayer train` that make this recipe of the published one."""
    words = ["train", name]
    for field in dataclasses.fields(recipe):
        if (value := getattr(recipe, field.name)) != getattr(published, field.name):
            words += option_words(field.name, value)
    return words


def changes(recipe: TrainingRecipe, published: TrainingRecipe) -> dict[str, tuple[Any, Any]]:
    """What differs in a way that matters: field → published value and ours."""
    names = (field.name for field in dataclasses.fields(recipe) if field.name not in NEUTRAL)
    pairs = {name: (getattr(published, name), getattr(recipe, name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def sentence(changed: dict[str, tuple[Any, Any]]) -> str:
    """Which settings are reduced, in words; empty for none."""
    return ", ".join(f"{name} {shown(ours)} (recipe: {shown(theirs)})" for name, (theirs, ours) in changed.items())


def shown(value: Any) -> str:
    """A value as text."""
    return ", ".join(map(str, value)) or "none" if isinstance(value, (tuple, list)) else str(value)
