import dataclasses
from typing import Annotated

import tyro

from crosslayer.console import console
from crosslayer.reports.comparison import comparison_table


@dataclasses.dataclass(frozen=True)
class Options:
    """Finished runs side by side."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN …]")]
    """Run directories."""


def run(words: list[str]) -> None:
    """Crosslayer compare RUN …."""
    options = tyro.cli(Options, args=words, prog="crosslayer compare")
    console.print(comparison_table(options.runs))
