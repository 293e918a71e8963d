"""From NAME=VALUE to the options of a mechanism, with their types."""

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from typing import Any, Literal

from crosslayer.errors import UsageError
from crosslayer.mechanisms import configure, lookup


def mechanism_options(mechanism: str, given: Sequence[str], drop_path: float) -> dict[str, Any]:
    """The mechanism's options with their types, drop path among them where it has one.

    Raises:
        UsageError: an unknown mechanism or option, or a value of the wrong kind.
    """
    try:
        fields = {field.name: field.type for field in dataclasses.fields(lookup(mechanism).config)}
        options: dict[str, Any] = {"drop_path": drop_path} if "drop_path" in fields else {}
        for option in given:
            name, equals, text = option.partition("=")
            if not equals:
                raise UsageError(f"--options {option}: write it as NAME=VALUE")
            options[name] = _parse_value(name, text, fields[name]) if name in fields else text
        configure(mechanism, options)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return options


def _parse_value(name: str, text: str, kind: Any) -> Any:
    """An option's text as the type its dataclass declares.

    Raises:
        UsageError: it is no such value.
    """
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if text in choices:
            return text
        close = difflib.get_close_matches(text, choices, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"--options {name}={text}: it is one of {', '.join(choices)}{hint}")
    kind = next((arm for arm in typing.get_args(kind) if arm is not type(None)), kind) if _is_optional(kind) else kind
    try:
        if typing.get_origin(kind) is tuple:
            return tuple(int(part) for part in text.split(","))
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        what = "true or false" if kind is bool else "a number" if kind is float else "whole numbers"
        raise UsageError(f"--options {name}={text}: the value must be {what}") from None


def _is_optional(kind: Any) -> bool:
    """Whether a type is `X | None`."""
    return type(None) in typing.get_args(kind)
