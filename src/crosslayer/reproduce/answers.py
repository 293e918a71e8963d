"""What a study that asks a question comes to: every variant against the baseline of its network."""

from collections.abc import Sequence

from crosslayer.reports.significance import LEVEL, Difference, welch
from crosslayer.reproduce.results import Line
from crosslayer.reproduce.study import Study

HEADINGS = ("network", "variant", "less the baseline", "95 % interval", "p (Welch)", "seeds", "statement")


def answer_rows(study: Study, lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """Under `HEADINGS`, a row for every variant but the baseline; none for a study without one."""
    bases = {line.cell.network: line for line in lines if line.cell.variant == study.baseline}
    return [
        answer(line, bases[line.cell.network])
        for line in lines
        if line.cell.network in bases and line.cell.variant != study.baseline
    ]


def answer(line: Line, base: Line) -> tuple[str, ...]:
    """One variant against its baseline."""
    seeds = f"{len(line.finished)} and {len(base.finished)}"
    tested = welch(line.last.values, base.last.values) if line.last and base.last else None
    if tested is None:
        return (line.cell.network, line.cell.variant, "–", "–", "–", seeds, "no test: it needs two seeds of each")
    interval = f"{tested.low:+.2f} to {tested.high:+.2f}"
    return (
        *(line.cell.network, line.cell.variant, f"{tested.difference:+.2f}", interval, f"{tested.p:.2g}"),
        *(seeds, statement(tested)),
    )


def statement(tested: Difference) -> str:
    """What the test says."""
    if tested.p >= LEVEL:
        return "no difference shown"
    return "better" if tested.difference > 0 else "worse"
