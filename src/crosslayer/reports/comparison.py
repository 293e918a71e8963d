from collections.abc import Sequence
from typing import Any

from rich.table import Table

from crosslayer.errors import UsageError
from crosslayer.training.run_directory import RunDirectory
from crosslayer.training.scores import SCORES


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
        run.read()
        summary = run.summary()
        if summary is None:
            raise UsageError(f"run {path} is not finished; go on with: crosslayer train --resume {path}")
        table.add_row(path, *cells(summary))
    return table


def cells(summary: dict[str, Any]) -> list[str]:
    """A summary's numbers as the table prints them."""
    score = SCORES[summary.get("task", "classification")].figure
    return [
        summary["mechanism"],
        f"{summary['parameters_m']:.3f}",
        f"{summary['macs_g']:.4f}" if "macs_g" in summary else "–",
        str(summary["epochs"]),
        f"{summary['last'][score]:.2f}",
        f"{summary['best'][score]:.2f}",
        f"{summary['images_per_second']:,.{0 if summary['images_per_second'] >= 10 else 2}f}",
        f"{summary['wall_seconds']:.1f}",
    ]
