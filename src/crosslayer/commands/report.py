import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from crosslayer.console import console
from crosslayer.files import write_text
from crosslayer.options import parse_options
from crosslayer.reports.page.contents import read_contents
from crosslayer.reports.page.html import page


@dataclasses.dataclass(frozen=True)
class Options:
    """One HTML page of all runs and studies of a folder; it needs no other file and no network."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder with run directories, or the --output of crosslayer reproduce."""
    output: str | None = None
    """The page's file [default: DIR/report.html]."""


def run(words: list[str]) -> None:
    """Crosslayer report DIR [OPTION …]."""
    options = parse_options(Options, words, "crosslayer report")
    folder = Path(options.folder)
    contents = read_contents(folder)
    file = Path(options.output) if options.output else folder / "report.html"
    write_text(file, page(contents, f"crosslayer: {folder.resolve().name}"))
    console.print(f"{len(contents.runs)} runs, {len(contents.studies)} studies: {file}")
