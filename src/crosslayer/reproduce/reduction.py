"""What a study changes of its recipes, and what that makes of its results."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tyro

from crosslayer.errors import UsageError
from crosslayer.training.recipe import Recipe, TrainingRecipe
from crosslayer.training.validation import flag

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
    if epochs < 1:
        raise UsageError(f"--epochs is {epochs}; it must be at least 1")
    share = epochs / recipe.epochs
    milestones = {round(share * milestone) for milestone in recipe.milestones}
    kept = tuple(sorted(milestone for milestone in milestones if 0 < milestone < epochs))
    fields: dict[str, Any] = {"epochs": epochs, "milestones": kept}
    if isinstance(recipe, Recipe):  # recipes of detection count their warm-up in steps
        fields["warmup_epochs"] = min(round(share * recipe.warmup_epochs), epochs - 1)
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
    return tyro.cli(type(recipe), args=words, default=recipe, prog="crosslayer reproduce --set") if words else recipe


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
