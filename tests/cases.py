"""Which cases of a product every run tries, and which the exhaustive one."""

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

import pytest


def each_once(*axes: Sequence[Any], core: Callable[..., bool] = lambda *_: False) -> list[Any]:
    """All combinations; those are not exhaustive in which a value of the longest axis stands first, or `core` ones."""
    longest = max(map(len, axes))
    first = {tuple(i % len(axis) for axis in axes) for i in range(longest)}
    numbered = product(*(enumerate(axis) for axis in axes))
    return [
        _case([value for _, value in case], core(*(value for _, value in case)) or tuple(i for i, _ in case) in first)
        for case in numbered
    ]


def only(cases: Iterable[Any], core: Callable[[Any], bool]) -> list[Any]:
    """The cases of one axis; all but the core ones are exhaustive."""
    return [_case([case], core(case)) for case in cases]


def _case(values: Sequence[Any], core: bool) -> Any:
    return pytest.param(*values, marks=() if core else pytest.mark.exhaustive)
