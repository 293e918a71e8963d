"""A recipe that stands in a file: a run's recipe.json, or a recipe's fields in JSON, TOML or YAML."""

import dataclasses
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from crosslayer.console import plain
from crosslayer.errors import UsageError, reason
from crosslayer.mechanisms.registry import unknown_name
from crosslayer.training.recipe import TrainingRecipe, recipe_type
from crosslayer.training.recipes import RECIPES
from crosslayer.training.records import fields_now, said

DEFAULT = "digits"
"""The recipe where none is named."""


def read_recipe_file(file: Path, named: str | None = None) -> tuple[str, TrainingRecipe]:
    """The name and the recipe that a file says; what it leaves out is as in the recipe of that name.

    Args:
        file: .json, .toml, .yaml or .yml; fields are named as in a run's recipe.json, beside an optional `name`.
        named: the recipe that was asked for, if any.

    Raises:
        UsageError: it cannot be read, has a field that recipes have not, or a value that the field cannot have.
    """
    try:
        return _checked(_content(file), named)
    except OSError as error:
        raise UsageError(f"--recipe {plain(file)} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UsageError(f"--recipe {plain(file)}: {_PLACE.sub(_as_field, said(error))}") from error


_PLACE = re.compile(r"^(.*) - at `\$\.(\w+)(\[[.\d]*\])?`$")
"""How msgspec ends a sentence on a value."""


def _as_field(place: re.Match[str]) -> str:
    return f"field {place[2]!r}: {place[1][:1].lower()}{place[1][1:]}"


def _checked(content: object, named: str | None) -> tuple[str, TrainingRecipe]:
    if not isinstance(content, dict) or not content:
        raise ValueError("it has no fields; write them as in a run's recipe.json")
    of_run = isinstance(content.get("recipe"), dict)
    if of_run and (unknown := content.keys() - {"name", "task", "recipe", "data"}):
        raise ValueError(f"a run's record has no field {min(map(str, unknown))!r}")
    name = content.get("name", named or DEFAULT)
    if not isinstance(name, str) or name not in RECIPES:
        raise ValueError(f"field 'name': {unknown_name('recipe', str(name), RECIPES)}")
    if named not in (None, name):
        raise ValueError(f"field 'name': it is of recipe {name!r}, not {named!r}")
    default = RECIPES[name]()
    if content.get("task", default.task) != default.task:
        raise ValueError(f"field 'task': recipe {name!r} is of {default.task}")
    if not of_run:
        return name, _typed({key: value for key, value in content.items() if key not in ("name", "task")}, default)
    # a run's record says all that its version knew; what came later is as it was then: the type's defaults
    return name, _typed(content["recipe"], recipe_type(default.task)() if "data" in content else default)


def _typed(fields: dict[str, Any], base: TrainingRecipe) -> TrainingRecipe:
    known = [field.name for field in dataclasses.fields(base)]
    if unknown := sorted(map(str, fields.keys() - set(known))):
        raise ValueError(unknown_name("field", unknown[0], known))
    return msgspec.convert(dataclasses.asdict(base) | fields_now(fields), type(base))


def _content(file: Path) -> Any:
    if file.suffix.lower() not in _READERS:
        raise ValueError(f"its name must end in one of {', '.join(_READERS)}")
    return _READERS[file.suffix.lower()](file.read_bytes())


def _yaml(content: bytes) -> Any:
    import yaml  # timm and huggingface_hub bring it; most trainings need it not

    class Loader(yaml.SafeLoader):
        """1e-4 is a number, as in YAML 1.2."""

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
    )
    try:
        return yaml.load(content, Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML: {' '.join(str(error).split())}") from error


def _json(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except ValueError as error:
        raise ValueError(f"it is no JSON: {reason(error)}") from error


def _toml(content: bytes) -> Any:
    try:
        return tomllib.loads(content.decode())
    except ValueError as error:
        raise ValueError(f"it is no TOML: {reason(error)}") from error


_READERS: dict[str, Callable[[bytes], Any]] = {".json": _json, ".toml": _toml, ".yaml": _yaml, ".yml": _yaml}
