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


def welch(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Welch's test of two groups of independent runs; none where a group has one seed, or neither has any spread."""
    if min(len(first), len(second)) < ENOUGH or np.ptp(first) == np.ptp(second) == 0:
        return None
    result: Any = stats.ttest_ind(first, second, equal_var=False)  # scipy's types do not know its fields
    low, high = map(float, result.confidence_interval(1 - LEVEL))
    difference = float(np.mean(first) - np.mean(second))
    return Difference(difference, low, high, float(result.pvalue), (len(first), len(second)))
