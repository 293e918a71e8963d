"""Whether two groups of runs differ by more than their seeds do."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.05
ENOUGH = 2
"""Seeds that each group must have for a test."""


class Difference(NamedTuple):
    """The difference of two means, first less second, with its 95 % confidence interval and Welch's p."""

    difference: float
    low: float
    high: float
    p: float
    seeds: tuple[int, int]

    def __str__(self) -> str:
        verdict = "significant" if self.p < LEVEL else "not significant"
        return (
            f"{self.difference:+.2f} points (95 % interval {self.low:+.2f} to {self.high:+.2f}; Welch's t-test, "
            f"p = {self.p:.2g}; {self.seeds[0]} and {self.seeds[1]} seeds): {verdict} at 5 %"
        )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of several tests' p, so that one of them errs at the level all have together.

    The i-th smallest of n (from 1) is multiplied with n - i + 1, is no smaller than the ones before it, and at most 1.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def welch(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Welch's test of two groups of independent runs; none where a group has one seed, or neither has any spread."""
    if min(len(first), len(second)) < ENOUGH or np.ptp(first) == np.ptp(second) == 0:
        return None
    result: Any = stats.ttest_ind(first, second, equal_var=False)  # scipy's types do not know its fields
    low, high = map(float, result.confidence_interval(1 - LEVEL))
    difference = float(np.mean(first) - np.mean(second))
    return Difference(difference, low, high, float(result.pvalue), (len(first), len(second)))
