"""What the user sees: one console, bars on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ChunkT = TypeVar("ChunkT", bound=Sized)

WIDTH = 120
"""Columns that tables may take where output is not a terminal."""

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def progress(chunks: Iterable[ChunkT], description: str, total: int) -> Iterator[ChunkT]:
    """Passes chunks of `total` things on, with a bar on a terminal and one line at the end elsewhere."""
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as display:
        task = display.add_task(description, total=total)
        for chunk in chunks:
            yield chunk
            display.advance(task, len(chunk))
    if not console.is_terminal:
        console.print(f"{description}: {total:,} in {time.monotonic() - started:.1f} s")
