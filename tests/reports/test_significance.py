import pytest
from scipy import stats

from crosslayer.reports.significance import holm, welch


def test_welch_by_hand():
    # Means 2 and 5, variances 1 and 4, three each: t = −3 / √(1/3 + 4/3), ν = (5/3)² / ((1/9 + 16/9) / 2)
    tested = welch([1, 2, 3], [3, 5, 7])
    assert tested is not None
    assert tested.difference == -3
    freedom = (5 / 3) ** 2 / ((1 / 9 + 16 / 9) / 2)
    assert tested.p == pytest.approx(2 * stats.t.sf(3 / (5 / 3) ** 0.5, freedom))
    half = stats.t.ppf(0.975, freedom) * (5 / 3) ** 0.5
    assert (tested.low, tested.high) == pytest.approx((-3 - half, -3 + half))
    assert "not significant at 5 %" in str(tested)


def test_too_few_seeds_or_no_spread():
    assert welch([1.0], [1.0, 2.0]) is None
    assert welch([1.0, 1.0], [2.0, 2.0]) is None


def test_holm_by_hand():
    """Of 4 tests: 4 × .005, 3 × .01, 2 × .03, then .04, which may not be below .06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
