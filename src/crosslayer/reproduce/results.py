"""What runs came to, read from their directories."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, Literal

from crosslayer.errors import FailedError
from crosslayer.reproduce.plan import Planned
from crosslayer.reproduce.study import Cell, Metric
from crosslayer.training.run_directory import METRICS, RunDirectory

Verdict = Literal["not run", "within one std", "above", "below"]


@dataclasses.dataclass(frozen=True)
class Finished:
    """One run that is done."""

    run: Planned
    rows: list[dict[str, Any]]
    summary: dict[str, Any]

    def last(self, metric: Metric) -> float:
        """After the last epoch."""
        return self.value(self.rows[-1], metric)

    def best(self, metric: Metric) -> float:
        """Of the epoch where it was highest."""
        return max(self.value(row, metric) for row in self.rows)

    def value(self, row: dict[str, Any], metric: Metric) -> float:
        """One epoch's.

        Raises:
            FailedError: the run has no such metric.
        """
        if row.get(metric.key) is None:
            raise FailedError(f"run {self.run.path} has no metric {metric.key!r}; it has {', '.join(row)}")
        return row[metric.key]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The sample's standard deviation (n − 1), from two seeds on."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclasses.dataclass(frozen=True)
class Line:
    """A cell by one metric: a line of a table."""

    cell: Cell
    metric: Metric
    finished: tuple[Finished, ...]
    planned: int

    @property
    def last(self) -> Spread | None:
        """After the last epoch, over the seeds that are done."""
        return Spread(tuple(each.last(self.metric) for each in self.finished)) if self.finished else None

    @property
    def best(self) -> Spread | None:
        """At best, likewise."""
        return Spread(tuple(each.best(self.metric) for each in self.finished)) if self.finished else None

    @property
    def difference(self) -> float | None:
        """Our mean after the last epoch less the paper's."""
        return self.last.mean - self.metric.printed.mean if self.last and self.metric.printed else None

    @property
    def combined_std(self) -> float | None:
        """√(ours² + the paper's²), of those that are known."""
        known = [self.last.std if self.last else None, self.metric.printed.std if self.metric.printed else None]
        return sum(std**2 for std in known if std is not None) ** 0.5 if any(std is not None for std in known) else None

    @property
    def verdict(self) -> Verdict | None:
        """Ours beside the paper's; none where the paper has no figure."""
        if not self.finished:
            return "not run"
        if self.difference is None:
            return None
        if self.combined_std is not None and abs(self.difference) <= self.combined_std:
            return "within one std"
        return "above" if self.difference > 0 else "below"

    def mean_of(self, key: str) -> float | None:
        """The mean of a number of the runs' summaries, as far as they have it."""
        known = [each.summary[key] for each in self.finished if each.summary.get(key) is not None]
        return statistics.fmean(known) if known else None


_NEEDED = ("steps", "epochs", "wall_seconds", "parameters_m", "images_per_second")
"""What is told of every finished run."""


def read_finished(runs: Sequence[Planned]) -> list[Finished]:
    """The runs that are done."""
    found: list[Finished] = []
    for run in runs:
        if run.state() == "finished":
            directory = RunDirectory(run.path)
            summary, rows = directory.summary(*_NEEDED), directory.metrics()
            if not rows:
                raise FailedError(
                    f"{directory / METRICS} of a finished run is empty or missing; restore it from a copy"
                )
            found.append(Finished(run, rows, summary or {}))
    return found


def lines_of(runs: Sequence[Planned]) -> list[Line]:
    """A line for each cell and metric, in the study's order."""
    finished = read_finished(runs)
    return [
        Line(
            cell,
            metric,
            tuple(each for each in finished if each.run.cell == cell),
            sum(run.cell == cell for run in runs),
        )
        for cell in dict.fromkeys(run.cell for run in runs)
        for metric in cell.metrics
    ]


def by_network(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of each network, in the study's order."""
    names = dict.fromkeys(line.cell.network for line in lines)
    return {name: [line for line in lines if line.cell.network == name] for name in names}
