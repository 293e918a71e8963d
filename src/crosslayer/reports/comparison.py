from collections.abc import Sequence
from typing import Any

from rich.table import Table

from crosslayer.errors import UsageError
from crosslayer.training.run_directory import RunDirectory
from crosslayer.training.task import SCORES

_NEEDED = ("mechanism", "parameters_m", "epochs", "images_per_second", "wall_seconds")


def comparison_table(paths: Sequence[str]) -> Table:
    """One row per finished run: size, cost, accuracy, speed.

    Raises:
        UsageError: a run that is not finished, or none.
    """
    table = Table(
        title="Comparison; scores in % (top-1, of detectors box AP), parameters in 10⁶, multiply-accumulates in 10⁹"
    )
    table.add_column("run", overflow="fold")
    table.add_column("mechanism")
    for heading in ("params", "MACs", "epochs", "last score", "best score", "images/s", "seconds"):
        table.add_column(heading, justify="right")
    for path in paths:
        run = RunDirectory(path)
        _, recipe, _ = run.read()
        score = SCORES[recipe.task].metric
        summary = run.summary(*_NEEDED, f"last.{score}", f"best.{score}")
        if summary is None:
            raise UsageError(f"run {path} is not finished; go on with: crosslayer train --resume {path}")
        table.add_row(path, *cells(summary, score))
    return table


def cells(summary: dict[str, Any], score: str) -> list[str]:
    """A summary's numbers as the table prints them."""
    return [
        summary["mechanism"],
        f"{summary['parameters_m']:.3f}",
        f"{summary['macs_g']:.4f}" if summary.get("macs_g") is not None else "–",
        str(summary["epochs"]),
        f"{summary['last'][score]:.2f}",
        f"{summary['best'][score]:.2f}",
        f"{summary['images_per_second']:,.{0 if summary['images_per_second'] >= 10 else 2}f}",
        f"{summary['wall_seconds']:.1f}",
    ]
