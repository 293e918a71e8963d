"""What a page shows of a folder: its runs, and the studies whose tables were rendered there."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct

from crosslayer.errors import UsageError
from crosslayer.training.recipes import RECIPES
from crosslayer.training.records import read_record
from crosslayer.training.run_directory import RECIPE, RunDirectory

STUDY = "study.json"
"""How the files end that `crosslayer reproduce` leaves for the page."""
IDENTITY = {"mechanism", "backbone", "options", "seed", "data"}
"""Settings that say which experiment a run is, rather than change its recipe."""


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """All that a run's directory says, as plain values."""

    path: str
    recipe_name: str
    recipe: dict[str, Any]
    classes: list[str]
    environment: dict[str, Any]
    rows: list[dict[str, Any]]
    summary: dict[str, Any] | None

    @property
    def group(self) -> str:
        """The same for runs that differ by their seed only; folders of data count as the same if their classes are."""
        rest = {name: value for name, value in self.recipe.items() if name not in ("seed", "data")}
        return json.dumps([self.recipe_name, rest, self.classes], sort_keys=True)

    @property
    def metric(self) -> str:
        """What the run is judged by: top-1, or the first metric of its validation."""
        names = [
            name for name in (self.rows[-1] if self.rows else ()) if name.startswith("val/") and "loss" not in name
        ]
        return "val/top1" if "val/top1" in names or not names else names[0]

    @property
    def last(self) -> float | None:
        """That, after the last epoch."""
        return self.rows[-1].get(self.metric) if self.rows else None

    @property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Settings that differ from the recipe's: name → the recipe's value and the run's."""
        if self.recipe_name not in RECIPES:
            return {}
        standard = json.loads(json.dumps(dataclasses.asdict(RECIPES[self.recipe_name]())))
        return {
            name: (standard.get(name), value)
            for name, value in self.recipe.items()
            if name not in IDENTITY and standard.get(name) != value
        }


class Table(Struct):
    """A table of a study, as texts."""

    caption: str
    headings: list[str]
    rows: list[list[str]]


class StudyRecord(Struct):
    """What `crosslayer reproduce` leaves of a study for the page."""

    name: str
    title: str
    text: str
    reduced: str
    note: str
    tables: list[Table]
    figures: list[str]


class Study(NamedTuple):
    """A study, and the folder of its pictures."""

    folder: Path
    record: StudyRecord


@dataclasses.dataclass(frozen=True)
class Contents:
    """A folder's runs and studies."""

    folder: Path
    runs: list[RunFacts]
    studies: list[Study]


def read_contents(folder: Path) -> Contents:
    """Every run and study below a folder.

    Raises:
        UsageError: there are none.
        FailedError: a file of theirs is damaged.
    """
    runs = [_read_run(file.parent, folder) for file in sorted(folder.rglob(RECIPE))]
    studies = [Study(file.parent, read_record(file, StudyRecord)) for file in sorted(folder.rglob(f"*.{STUDY}"))]
    if not runs and not studies:
        state = "holds no run and no study" if folder.is_dir() else "does not exist"
        raise UsageError(f"report {folder}: the folder {state}; name the --output of crosslayer reproduce or train")
    return Contents(folder, runs, studies)


def _read_run(path: Path, folder: Path) -> RunFacts:
    """One run's files.

    Raises:
        FailedError: one is damaged, or of another version.
    """
    run = RunDirectory(path)
    stored = run.recipe_record()
    return RunFacts(
        path.relative_to(folder).as_posix() if path != folder else path.name,
        stored.name,
        stored.fields(),
        list(stored.data.classes),
        run.environment(),
        run.metrics(),
        run.summary(),
    )
