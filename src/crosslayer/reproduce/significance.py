"""What a study's tests come to: variants against the baseline of their network, or all of them against each other."""

from collections.abc import Sequence
from itertools import combinations

from crosslayer.reports.significance import LEVEL, Difference, holm, welch
from crosslayer.reproduce.results import Line, by_network
from crosslayer.reproduce.study import Study

HEADINGS = ("network", "variant", "less", "difference", "95 % interval", "p (Welch)", "p (Holm)", "seeds", "statement")
NOTE = (
    "Differences of the means after the last epoch, in points. Welch's test is over seeds; Holm's p is corrected for "
    "all tests of the network here, and is what the statement goes by. Intervals are not corrected."
)


def caption(study: Study) -> str:
    """What the tests are of."""
    return "Each against each" if study.pairwise else f"Against {study.baseline}"


def answer_rows(study: Study, lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """Under `HEADINGS`, a row for every two variants that are tested; none for a study that asks nothing."""
    return [row for of_network in by_network(lines).values() for row in _of_network(study, of_network)]


def _of_network(study: Study, lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """The tests of one network."""
    bases = [line for line in lines if line.cell.variant == study.baseline]
    if study.pairwise:
        pairs = [(second, first) for first, second in combinations(lines, 2)]
    else:
        pairs = [(line, base) for base in bases for line in lines if line is not base]
    tests = [welch(a.last.values, b.last.values) if a.last and b.last else None for a, b in pairs]
    adjusted = iter(holm([tested.p for tested in tests if tested]))
    return [_row(a, b, tested, next(adjusted) if tested else 1.0) for (a, b), tested in zip(pairs, tests, strict=True)]


def _row(line: Line, base: Line, tested: Difference | None, p: float) -> tuple[str, ...]:
    """One variant less another."""
    seeds = f"{len(line.finished)} and {len(base.finished)}"
    names = (line.cell.network, line.cell.variant, base.cell.variant)
    if tested is None:
        return (*names, "–", "–", "–", "–", seeds, "no test: it needs two seeds of each")
    interval = f"{tested.low:+.2f} to {tested.high:+.2f}"
    return (*names, f"{tested.difference:+.2f}", interval, f"{tested.p:.2g}", f"{p:.2g}", seeds, _statement(tested, p))


def _statement(tested: Difference, p: float) -> str:
    """What the test says."""
    if p >= LEVEL:
        return "no difference shown"
    return "better" if tested.difference > 0 else "worse"
