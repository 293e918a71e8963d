import dataclasses
import inspect
import sys

import tyro
from rich.table import Table

from crosslayer.console import console
from crosslayer.mechanisms import lookup
from crosslayer.models import list_backbones, list_mechanisms
from crosslayer.training.recipes import RECIPES


@dataclasses.dataclass(frozen=True)
class Options:
    """Mechanisms with their options, backbones and recipes."""


def run(words: list[str]) -> None:
    """Crosslayer list."""
    tyro.cli(Options, args=words, prog="crosslayer list")
    mechanisms = Table("mechanism", "what it is", "options", title="Mechanisms", show_lines=True)
    for name in list_mechanisms():
        registration = lookup(name)
        options = [f"{field.name}={field.default}" for field in dataclasses.fields(registration.config)]
        mechanisms.add_row(name, first_line(sys.modules[registration.module]), "\n".join(options))
    console.print(mechanisms)
    recipes = Table("recipe", "what it does", title="Recipes")
    for name, recipe in RECIPES.items():
        recipes.add_row(name, first_line(recipe))
    console.print(recipes)
    console.print("Backbones: " + ", ".join(list_backbones()))


def first_line(documented: object) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(documented) or "").splitlines()[0].rstrip(".")
