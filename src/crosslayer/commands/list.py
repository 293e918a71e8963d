import dataclasses
import inspect
import os
import sys

from rich.table import Table

from crosslayer.console import PlainConsole, console
from crosslayer.mechanisms import lookup
from crosslayer.models import list_backbones, list_mechanisms
from crosslayer.options import parse_options
from crosslayer.training.recipes import RECIPES

WIDEST = 10_000
"""Columns that no table needs."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Mechanisms with their options, backbones and recipes.

    Args:
        papers: print where each mechanism was published and what it does along depth, instead.
    """

    papers: bool = False


def run(words: list[str]) -> None:
    """Crosslayer list."""
    if parse_options(Options, words, "crosslayer list").papers:
        _print_papers()
        return
    mechanisms = Table("mechanism", "what it is", "options", title="Mechanisms", show_lines=True)
    for name in list_mechanisms():
        registration = lookup(name)
        options = [f"{field.name}={field.default}" for field in dataclasses.fields(registration.config)]
        mechanisms.add_row(name, _first_line(sys.modules[registration.module]), "\n".join(options))
    console.print(mechanisms)
    recipes = Table("recipe", "what it does", title="Recipes")
    for name, recipe in RECIPES.items():
        recipes.add_row(name, _first_line(recipe))
    console.print(recipes)
    console.print("Backbones: " + ", ".join(list_backbones()))


def _print_papers() -> None:
    """A line for every mechanism that names its paper."""
    table = Table(show_lines=True, title="Papers")
    for heading in ("mechanism", "arXiv", "year"):
        table.add_column(heading, no_wrap=True)
    for heading in ("reads", "writes", "state in depth", "starts as identity", "parameters per block",
                    "and per stage", "published in vision"):  # fmt: skip
        table.add_column(heading, overflow="fold")
    for name in list_mechanisms():
        mechanism, paper = lookup(name).mechanism, lookup(name).paper
        if paper:
            identity, block = "yes" if mechanism.starts_as_identity else "no", paper.block or "see its file"
            table.add_row(name, paper.arxiv, str(paper.year), paper.reads, paper.writes, paper.state,
                          identity, block, "" if paper.stage == "0" else paper.stage, paper.results)  # fmt: skip
    _print_whole(table)
    console.print(
        "Parameters are those of the default options: c channels, k the kernel size that ECA has for them, T blocks of "
        "the stage. Where a stage has a negative number, its first blocks have fewer. Identity: a network with fresh "
        "weights is exactly the plain one."
    )


def _print_whole(table: Table) -> None:
    """A table as wide as the terminal, or as $COLUMNS says; where output is neither, every row on one line."""
    columns = os.environ.get("COLUMNS", "")
    if console.is_terminal or columns.isdigit():
        PlainConsole(width=int(columns) if columns.isdigit() else None).print(table)
        return
    table.show_lines = False
    PlainConsole(width=WIDEST).print(table)


def _first_line(documented: object) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(documented) or "").splitlines()[0].rstrip(".")
