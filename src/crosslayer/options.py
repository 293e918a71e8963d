"""The options of every command: a dataclass that a command line fills, and one sentence where it cannot."""

import contextlib
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, TypeVar

import tyro

from crosslayer.console import plain
from crosslayer.errors import UsageError

OptionsT = TypeVar("OptionsT")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_RULE = re.compile(r"[\s─╰╯-]*")
_HINT = "    --"
"""How the line of a similar option begins."""


def parse_options(kind: type[OptionsT], words: Sequence[str], prog: str, **settings: Any) -> OptionsT:
    """A dataclass's instance with the values that the words say.

    Args:
        kind: the dataclass; its fields are the options.
        words: the command line.
        prog: what stands before the words, such as `crosslayer train`.
        settings: further arguments of `tyro.cli`.

    Raises:
        SystemExit: help was asked for, and is printed.
        UsageError: a word that is no option or no value of one, or something is missing.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(kind, args=list(words), prog=prog, **settings)
    except SystemExit as stop:
        if not stop.code:
            raise
        if isinstance(stop.__context__, UsageError):  # the dataclass's own words
            raise stop.__context__ from None
        command = " ".join(prog.split()[:2])
        raise UsageError(f"{_sentence(box.getvalue())} ({command} --help lists the options)") from None


def _sentence(box: str) -> str:
    """What the box says that tyro draws around an error, and the similar options that it ends with."""
    wrong, *rest = _sections(box)
    listed = [line.strip() for line in wrong if line.startswith(" " * 4) and not line.startswith(" " * 8)]
    said = " ".join(line for line in wrong if not line.startswith(" " * 4))
    similar = [line.split()[0].rstrip(",") for lines in rest for line in lines if line.startswith(_HINT)]
    offer = f"; did you mean {' or '.join(dict.fromkeys(similar))}?" if similar and "option" in said else ""
    return plain(" ".join([said[:1].lower() + said[1:].removesuffix("."), ", ".join(listed)]).strip()) + offer


def _sections(box: str) -> Iterator[list[str]]:
    """The lines of the box below its title, between its rules."""
    lines = [_COLOUR.sub("", line).strip("│").rstrip() for line in box.splitlines()[1:]]
    for rule, section in groupby(lines, key=lambda line: _RULE.fullmatch(line) is not None):
        if not rule:
            yield textwrap.dedent("\n".join(section)).splitlines()
