import dataclasses
import json
from typing import Annotated

import tyro

from crosslayer.console import console
from crosslayer.errors import FailedError, UsageError
from crosslayer.options import parse_options
from crosslayer.training.run_directory import RunDirectory
from crosslayer.training.verify import faults


@dataclasses.dataclass(frozen=True)
class Options:
    """Check that every file of runs is as it was written: digests of checkpoints, forms of records."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN …]")]
    """Run directories."""
    json: bool = False
    """Print one JSON object: what is wrong with each run."""


def run(words: list[str]) -> None:
    """Crosslayer verify RUN …."""
    options = parse_options(Options, words, "crosslayer verify")
    if not options.runs:
        raise UsageError("name a RUN to verify")
    found = {path: faults(RunDirectory(path)) for path in options.runs}
    if options.json:
        print(json.dumps(found))
    else:
        for path, sentences in found.items():
            console.print("\n".join([f"{path}: {'damaged' if sentences else 'whole'}", *sentences]))
    if damaged := [path for path, sentences in found.items() if sentences]:
        raise FailedError(f"{len(damaged)} of {len(found)} runs are damaged; the first: {found[damaged[0]][0]}")
