"""What a run leaves behind: its recipe, environment, metrics, checkpoints and summary, in one folder."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

from crosslayer.detection.recipe import DetectionRecipe
from crosslayer.errors import FailedError, UsageError
from crosslayer.files import write_json, write_text
from crosslayer.training.recipe import Recipe, TaskName, TrainingRecipe

RECIPE, METRICS, SUMMARY, ENVIRONMENT = "recipe.json", "metrics.jsonl", "summary.json", "environment.json"
CHECKPOINTS, TENSORBOARD, CURVES = "checkpoints", "tensorboard", "curves.png"
RECIPE_TYPES: dict[TaskName, type[TrainingRecipe]] = {"classification": Recipe, "detection": DetectionRecipe}


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """What a trained network must be told of the data it was trained on; a detector knows mean and deviation itself."""

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    category_ids: tuple[int, ...] = ()
    """Of detectors: each class's id in the annotations."""


@final
class RunDirectory:
    """A folder that holds one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / CHECKPOINTS

    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / RECIPE).exists()

    def check_free(self, overwrite: bool) -> None:
        """Raises UsageError unless a run may be made here."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"--output {self.path}: this is a file, not a folder")
        if self.holds_run() and not overwrite:
            raise UsageError(
                f"{self.path} already holds a run; give --overwrite, another --output, or --resume {self.path}"
            )
        if self.path.exists() and any(self.path.iterdir()) and not self.holds_run():
            raise UsageError(f"--output {self.path}: the folder holds other files; name a new one")

    def begin(
        self, name: str, recipe: TrainingRecipe, facts: DataFacts, environment: dict[str, Any], *, resumed: bool
    ) -> None:
        """Makes the folder, in place of a run that it held unless that one goes on."""
        if self.holds_run() and not resumed:
            for part in (CHECKPOINTS, TENSORBOARD):
                shutil.rmtree(self.path / part, ignore_errors=True)
            for part in (METRICS, SUMMARY, CURVES):
                (self.path / part).unlink(missing_ok=True)
        write_json(self.path / ENVIRONMENT, environment)
        described = {"recipe": dataclasses.asdict(recipe), "data": dataclasses.asdict(facts)}
        write_json(self.path / RECIPE, {"name": name, "task": recipe.task} | described)

    def read(self) -> tuple[str, TrainingRecipe, DataFacts]:
        """The recipe's name, the recipe as run, and its data's facts.

        Raises:
            UsageError: there is no run here.
            FailedError: its recipe was damaged, or is of another version of crosslayer.
        """
        if not self.holds_run():
            state = "holds no run (there is no recipe.json)" if self.path.is_dir() else "does not exist"
            raise UsageError(f"run directory {self.path} {state}")
        try:
            content = parsed(self.path / RECIPE, json.loads)
            fields = {key: as_tuple(value) for key, value in present_fields(content["recipe"]).items()}
            facts = {key: as_tuple(value) for key, value in content["data"].items()}
            recipe = RECIPE_TYPES[content.get("task", Recipe.task)](**fields)
            return content["name"], recipe, DataFacts(**facts)
        except (KeyError, TypeError, AttributeError) as error:
            raise FailedError(f"{self.path / RECIPE} is of another version of crosslayer: {error}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """One row per epoch."""
        file = self.path / METRICS
        return parsed(file, lambda text: [json.loads(line) for line in text.splitlines()]) if file.exists() else []

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Writes all rows."""
        write_text(self.path / METRICS, "".join(json.dumps(row) + "\n" for row in rows))

    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, if it is one."""
        file = self.path / SUMMARY
        return parsed(file, json.loads) if file.exists() else None


def parsed(file: Path, parse: Callable[[str], Any]) -> Any:
    """What a file of a run holds.

    Raises:
        FailedError: the file was damaged.
    """
    try:
        return parse(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FailedError(f"{file} is damaged: {error}") from error


def present_fields(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored recipe's fields as recipes have them now: `compile` was true or false before it was a choice of ways."""
    compiled = stored.get("compile")
    return stored | {"compile": "on" if compiled else "off"} if isinstance(compiled, bool) else stored


def as_tuple(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(value) if isinstance(value, list) else value
