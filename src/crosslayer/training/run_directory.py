"""What a run leaves behind: its recipe, environment, metrics, checkpoints and summary, in one folder."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, final

from crosslayer.console import errors
from crosslayer.errors import UsageError
from crosslayer.files import cannot_write, disk, is_partial_of, write_json, write_text
from crosslayer.training import checkpoint, records
from crosslayer.training.checkpoint import Progress
from crosslayer.training.lock import LOCK, RunLock
from crosslayer.training.recipe import TrainingRecipe
from crosslayer.training.records import DatasetInfo

RECIPE, METRICS, SUMMARY, ENVIRONMENT = "recipe.json", "metrics.jsonl", "summary.json", "environment.json"
CHECKPOINTS, TENSORBOARD, CURVES = "checkpoints", "tensorboard", "curves.png"
_WRITTEN = (RECIPE, ENVIRONMENT, METRICS, SUMMARY, CURVES)


@final
class RunDirectory:
    """A folder that holds one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.lock = RunLock(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / CHECKPOINTS

    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return os.path.lexists(self.path / RECIPE)

    def check_free(self, overwrite: bool) -> None:
        """Raises UsageError unless a run may be made here."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"--output {self.path}: this is a file, not a folder")
        self.lock.check_free()
        if self.holds_run():
            if not overwrite:
                raise UsageError(
                    f"{self.path} already holds a run; give --overwrite, another --output, or --resume {self.path}"
                )
        elif self.path.exists() and (names := self._names()):
            if others := names - self._remains(overwrite):
                more = ", or give --overwrite to train in its place" if names == self._remains(True) else ""
                raise UsageError(
                    f"--output {self.path}: the folder holds other files ({min(others)!r}); name a new one{more}"
                )
            errors.print(f"{self.path} holds the first files of a run that was stopped as it began; it begins anew")

    def _names(self) -> set[str]:
        return {file.name for file in self.path.iterdir()}

    def _remains(self, overwrite: bool) -> set[str]:
        """What a run leaves that was stopped before its recipe was written, in place of another or not."""
        names: set[str] = set()
        for file in self.path.iterdir():
            own = file.name in (ENVIRONMENT, LOCK) or is_partial_of(file, _WRITTEN)
            if overwrite:
                own = own or file.name in (*_WRITTEN, CHECKPOINTS, TENSORBOARD)
            if own or (file.name in (CHECKPOINTS, TENSORBOARD) and file.is_dir() and not any(file.iterdir())):
                names.add(file.name)
        return names

    def begin(
        self,
        name: str,
        recipe: TrainingRecipe,
        dataset_info: DatasetInfo,
        environment: dict[str, Any],
        *,
        resumed: bool,
    ) -> None:
        """Makes the folder, in place of a run that it held unless that one goes on.

        Raises:
            UsageError: another training was first.
            FailedError: it cannot be written.
        """
        self.lock.acquire()
        try:
            self._remove_partial_files()
            if not resumed:
                disk.remove(self.path / RECIPE)  # first: what is left of a run without it is none
                for part in (CHECKPOINTS, TENSORBOARD):
                    disk.remove_folder(self.path / part)
                for part in (METRICS, SUMMARY, CURVES):
                    disk.remove(self.path / part)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        write_json(self.path / ENVIRONMENT, environment)
        described = {"recipe": dataclasses.asdict(recipe), "data": dataclasses.asdict(dataset_info)}
        write_json(self.path / RECIPE, {"name": name, "task": recipe.task} | described)

    def go_on(self, progress: Progress) -> None:
        """Removes what a process that was killed left beside the checkpoints that a run goes on from."""
        checkpoint.tidy(self.checkpoints, progress)

    def _remove_partial_files(self) -> None:
        for file in sorted(self.path.iterdir()):
            if is_partial_of(file, _WRITTEN):
                disk.remove(file)

    def read(self) -> tuple[str, TrainingRecipe, DatasetInfo]:
        """The recipe's name, the recipe as run, and what is known of its data.

        Raises:
            UsageError: there is no run here.
            FailedError: its recipe was damaged, or is of another version of crosslayer.
        """
        self.check_begun()
        record = self.recipe_record()
        with records.damage(self.path / RECIPE):
            return record.name, record.typed(), record.data

    def check_begun(self) -> None:
        """Raises UsageError unless there is a run here."""
        if self.holds_run():
            return
        if not self.path.is_dir():
            raise UsageError(f"run directory {self.path} does not exist")
        if (names := self._names()) and names == self._remains(False):
            raise UsageError(f"the run in {self.path} was stopped as it began; begin it anew with --output {self.path}")
        raise UsageError(f"run directory {self.path} holds no run (there is no {RECIPE})")

    def recipe_record(self) -> records.RecipeRecord:
        """The recipe as it was stored."""
        return records.read_recipe(self.path / RECIPE)

    def metrics(self) -> list[records.Row]:
        """One row per epoch.

        Raises:
            FailedError: they were damaged.
        """
        file = self.path / METRICS
        return records.read_metrics(file) if os.path.lexists(file) else []

    def write_metrics(self, rows: list[records.Row]) -> None:
        """Writes all rows."""
        write_text(self.path / METRICS, "".join(json.dumps(row) + "\n" for row in rows))

    def summary(self, *needed: str) -> dict[str, Any] | None:
        """The summary of a finished run, if it is one, with at least the figures `needed`.

        Raises:
            FailedError: it was damaged, or lacks one.
        """
        file = self.path / SUMMARY
        return records.read_summary(file, *needed) if os.path.lexists(file) else None

    def environment(self) -> dict[str, Any]:
        """What the run ran on; nothing where that was not kept.

        Raises:
            FailedError: its file was damaged.
        """
        file = self.path / ENVIRONMENT
        return records.read_environment(file) if os.path.lexists(file) else {}
