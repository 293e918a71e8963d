"""What the files of a run may hold, checked once, as they are read."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from crosslayer.console import plain
from crosslayer.errors import FailedError, reason
from crosslayer.training.recipe import Recipe, TaskName, TrainingRecipe, recipe_type

RecordT = TypeVar("RecordT")
Plain = str | bool | int | float | None
Row = dict[str, Any]
"""An epoch's figures; the epoch and the step are numbers, the others may be None."""
_LARGEST = 1e300
_Count = Annotated[int, Meta(ge=1, le=2**53)]
_Number = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
_Positive = Annotated[float, Meta(gt=0, le=_LARGEST)]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What a trained network must be told of the data it was trained on; a detector knows mean and deviation itself."""

    classes: Annotated[tuple[str, ...], Meta(min_length=1)]
    mean: tuple[_Number, ...]
    std: tuple[_Positive, ...]
    category_ids: tuple[int, ...] = ()
    """Of detectors: each class's id in the annotations."""


class RecipeRecord(Struct):
    """recipe.json: the recipe's fields as they were stored, perhaps by an earlier version."""

    name: str
    recipe: dict[str, Plain | list[Plain]]
    data: DatasetInfo
    task: TaskName = Recipe.task

    def fields(self) -> dict[str, Any]:
        """The fields as recipes have them now."""
        return fields_now(self.recipe)

    def typed(self) -> TrainingRecipe:
        """The recipe as it was run.

        Raises:
            ValueError: this version has no such recipe; the sentence says why.
        """
        kind, fields = recipe_type(self.task), self.fields()
        if unknown := sorted(fields.keys() - {field.name for field in dataclasses.fields(kind)}):
            raise ValueError(f"recipes have no {unknown[0]!r}")
        return msgspec.convert(fields, kind)


def fields_now(fields: dict[str, Any]) -> dict[str, Any]:
    """A recipe's fields as recipes have them now: `compile` was true or false before it was a choice of ways."""
    compiled = fields.get("compile")
    return fields | ({"compile": "on" if compiled else "off"} if isinstance(compiled, bool) else {})


class _Identity(Struct):
    """Fields that every version's recipes have, for what shows runs of any version."""

    seed: int = 0
    epochs: int | None = None
    backbone: str = ""
    mechanism: str = ""
    options: list[str] = msgspec.field(default_factory=list)


class _Position(Struct):
    """What every row of metrics.jsonl has."""

    epoch: _Count
    step: _Count


class _Summary(Struct):
    """summary.json: types of what is read of it."""

    task: TaskName | UnsetType = UNSET
    mechanism: str | UnsetType = UNSET
    epochs: _Count | UnsetType = UNSET
    steps: _Count | UnsetType = UNSET
    parameters_m: _Number | UnsetType = UNSET
    macs_g: _Number | UnsetType = UNSET
    images_per_second: _Number | UnsetType = UNSET
    wall_seconds: _Number | UnsetType = UNSET
    last: dict[str, _Number | None] | UnsetType = UNSET
    best: dict[str, _Number | None] | UnsetType = UNSET


def read_recipe(file: Path) -> RecipeRecord:
    """What recipe.json says.

    Raises:
        FailedError: it is damaged, or of another version.
    """
    record = read_record(file, RecipeRecord)
    lengths = {len(record.data.mean), len(record.data.std)}
    with damage(file):
        msgspec.convert(record.recipe, _Identity)
        if record.task == "classification" and lengths != {3}:
            raise ValueError("`$.data.mean` and `$.data.std` are three numbers")
    return record


def read_metrics(file: Path) -> list[Row]:
    """The rows of metrics.jsonl, epochs and steps rising, figures alike in all.

    Raises:
        FailedError: it is damaged; the sentence names the line.
    """
    rows: list[Row] = []
    for number, line in enumerate(content_of(file).splitlines(), 1):
        with damage(file, f", line {number}"):
            rows.append(_row(line, rows[-1] if rows else None))
    with damage(file):
        if not rows:
            raise ValueError("it is empty")
    return rows


def _row(line: bytes, before: Row | None) -> Row:
    row = msgspec.json.decode(line, type=dict[str, int | float | None])
    msgspec.convert(row, _Position)
    if not all(value is None or -_LARGEST <= value <= _LARGEST for value in row.values()):
        raise ValueError("a number is too large")
    if before and row.keys() != before.keys():
        raise ValueError(f"only one of this line and the one before has {min(row.keys() ^ before.keys())!r}")
    if before and not (row["epoch"] > before["epoch"] and row["step"] > before["step"]):
        raise ValueError("its epoch or step is not above that of the line before")
    return row


def read_summary(file: Path, *needed: str) -> dict[str, Any]:
    """What summary.json says, with at least the figures `needed`: dots lead into nested ones.

    Raises:
        FailedError: it is damaged, or lacks one.
    """
    content = read_record(file, dict[str, Any])
    with damage(file):
        msgspec.convert(content, _Summary)
        for name in needed:
            first, _, second = name.partition(".")
            value = content.get(first)
            if (value.get(second) if isinstance(value, dict) else value) is None:
                raise ValueError(f"it has no {name!r}")
    return content


def read_environment(file: Path) -> dict[str, Any]:
    """What environment.json says.

    Raises:
        FailedError: it is damaged.
    """
    return read_record(file, dict[str, Plain | dict[str, Plain]])


def read_record(file: Path, kind: type[RecordT]) -> RecordT:
    """A JSON file as a type.

    Raises:
        FailedError: it cannot be read, is no JSON, or of another form; the sentence says where.
    """
    content = content_of(file)
    with damage(file):
        return msgspec.json.decode(content, type=kind)


def content_of(file: Path) -> bytes:
    """A file's bytes, or a FailedError that names it."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise FailedError(f"{file} cannot be read: {error.strerror or error}") from error


@contextlib.contextmanager
def damage(file: Path, where: str = "") -> Iterator[None]:
    """Turns what is found wrong with a record into a FailedError: one sentence that names its file."""
    try:
        yield
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        # msgspec's DecodeError is no JSON at all, its ValidationError JSON of another form
        of = "" if isinstance(error, UnicodeDecodeError) or type(error) is msgspec.DecodeError else _OTHER_VERSION
        raise FailedError(
            f"{file} is damaged{of}{where}: {said(error)}; restore it from a copy, or begin a new run"
        ) from error


def said(error: Exception) -> str:
    """What is wrong with a text that could not be read as it should be, in one short line."""
    return "it is nested too deeply" if isinstance(error, RecursionError) else plain(reason(error))[:300]


_OTHER_VERSION = ", or is of another version of crosslayer"
