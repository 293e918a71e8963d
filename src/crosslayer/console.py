"""What the user sees: one console, bars on a terminal, plain lines elsewhere.

rich is brought by the first thing that is printed: a network that is used in Python prints nothing.
"""

import contextlib
import functools
import json
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar, final

if TYPE_CHECKING:
    from rich.console import Console

ChunkT = TypeVar("ChunkT", bound=Sized)

WIDTH = 120
"""Columns that tables may take where output is not a terminal."""


def plain(text: object) -> str:
    """A user's text on one line: line ends, control codes and bytes that were no UTF-8 as Python's escapes.

    It can be printed, hashed, and written in UTF-8 anywhere.
    """
    return "".join(_escaped(letter) if unicodedata.category(letter) in _UNPRINTABLE else letter for letter in str(text))


_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Control codes, halves of surrogate pairs, line and paragraph separators."""


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


@final
class PlainConsole:
    """Prints text as it is: brackets are no markup, colons no emoji; names of files and classes may hold both."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    @functools.cached_property
    def rich(self) -> "Console":
        """What prints."""
        from rich.console import Console
        from rich.text import Text

        class Escaping(Console):
            def render_str(self, text: str, **options: Any) -> Text:
                """The text, its lines kept and everything else that is no letter escaped."""
                return super().render_str("\n".join(map(plain, text.split("\n"))), **options)

        return Escaping(highlight=False, soft_wrap=True, markup=False, emoji=False, **self.options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich, name)


console = PlainConsole(width=None if sys.stdout.isatty() else WIDTH)
errors = PlainConsole(stderr=True)


def only_json(wanted: bool) -> contextlib.AbstractContextManager[object]:
    """If `wanted`, all that is said within goes to standard error: standard output is for one JSON object."""
    return contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext()


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on standard output; what is no finite number is null, as JSON has no word for it."""
    finite = json.loads(json.dumps(content), parse_constant=lambda _: None)
    print(json.dumps(finite, indent=2))


def progress(chunks: Iterable[ChunkT], description: str, total: int) -> Iterator[ChunkT]:
    """Passes chunks of `total` things on, with a bar on a terminal and one line at the end elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    started = time.monotonic()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.rich, disable=not console.is_terminal, transient=True) as display:
        task = display.add_task(description, total=total)
        for chunk in chunks:
            yield chunk
            display.advance(task, len(chunk))
    if not console.is_terminal:
        console.print(f"{description}: {total:,} in {time.monotonic() - started:.1f} s")
