"""How a block of a network built elsewhere is called: an activation among its arguments, and one that it returns.

The activation is the first tensor given, by position or by name. It is returned alone, or first of a tuple that tells
more (attention weights, say). Hierarchical transformers tell a block beside it the size of the map that tokens make.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

from crosslayer.models.layouts import Grid

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def given(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The activation that a block is given, or None where no tensor comes first."""
    first = args[0] if args else next(iter(kwargs.values()), None)
    return first if isinstance(first, Tensor) else None


def giving(x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
    """The same arguments with another activation."""
    if args:
        return (x, *args[1:]), dict(kwargs)
    return (), {name: x if place == 0 else value for place, (name, value) in enumerate(kwargs.items())}


def returned(out: Any) -> Any:
    """The activation of what a block returned."""
    return out[0] if isinstance(out, tuple) and out else out


def returning(x: Tensor, out: Any) -> Any:
    """What a block returned with another activation."""
    return (x, *out[1:]) if isinstance(out, tuple) else x


def told_size(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Grid | None:
    """The first two whole numbers, as a pair or one after another, that a block is told: height and width."""
    numbers: list[int] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, (tuple, list)) and len(value) == 2 and all(_is_whole(part) for part in value):
            return value[0], value[1]
        if _is_whole(value):
            numbers.append(value)
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)
