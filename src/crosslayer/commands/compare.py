import dataclasses
from typing import Annotated

import tyro

from crosslayer.console import console
from crosslayer.errors import UsageError
from crosslayer.options import parse_options
from crosslayer.reports.comparison import comparison_table


@dataclasses.dataclass(frozen=True)
class Options:
    """Finished runs side by side."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN …]")]
    """Run directories."""


def run(words: list[str]) -> None:
    """Crosslayer compare RUN …."""
    options = parse_options(Options, words, "crosslayer compare")
    if not options.runs:
        raise UsageError("name a RUN to compare")
    console.print(comparison_table(options.runs))
