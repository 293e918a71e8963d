"""Which cells and seeds of a study are meant."""

from collections.abc import Sequence

from crosslayer.errors import UsageError
from crosslayer.mechanisms.interface import unknown_name
from crosslayer.reproduce.study import Cell, Study

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
    wanted = [{word for word in only if kind in kinds_of(word, known)} for kind in KINDS]
    cells = tuple(
        cell
        for cell in study.cells
        if all(not words or getattr(cell, kind) in words for kind, words in zip(KINDS, wanted, strict=True))
    )
    if not cells:
        raise UsageError(f"--only {' '.join(only)} leaves nothing of {study.name}")
    return cells


def kinds_of(word: str, known: dict[str, set[str]]) -> list[str]:
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
