"""What a command line says that no command understands: one sentence, exit code 2."""

import dataclasses
import io
import sys

import pytest

from crosslayer.cli import COMMANDS
from crosslayer.errors import UsageError
from crosslayer.options import parse_options

NEEDED = {
    **{
        name: ["absent"]
        for name in ("evaluate", "predict", "attention", "explain", "compare", "verify", "report", "demo")
    },
    **{"push": ["absent", "owner/name"], "export": ["resnet18", "--output", "x.onnx"], "reproduce": ["table1"]},
}
"""The words that a command cannot do without."""
NUMBERS = {
    **{"train": "--lr", "evaluate": "--batch-size", "predict": "--threshold", "attention": "--count"},
    **{"export": "--num-classes", "reproduce": "--jobs", "bench": "--rounds", "profile": "--image-size"},
}
"""An option of each command that takes a number."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options."""

    side: int = 1
    """A number."""
    names: tuple[str, ...] = ()
    """Some words."""

    def __post_init__(self) -> None:
        if self.side == 0:
            raise UsageError(f"--side is {self.side}; it must be at least 1")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_told_with_the_closest(crosslayer, command: str):
    code, out, err = crosslayer(command, *NEEDED.get(command, []), "--helpp")
    assert (code, out) == (2, "")
    assert err == f"crosslayer: unrecognized options: --helpp (crosslayer {command} --help lists the options)\n"


@pytest.mark.parametrize("command", [name for name in COMMANDS if name in NEEDED])
def test_what_is_missing_is_told(crosslayer, command: str):
    code, out, err = crosslayer(command)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert any(word in err for word in ("RUN", "DIR", "STUDY", "run director")), err


@pytest.mark.parametrize(("command", "option"), NUMBERS.items())
def test_a_value_that_is_missing_or_of_another_type_is_told(crosslayer, command: str, option: str):
    code, out, err = crosslayer(command, *NEEDED.get(command, []), f"{option}=ten")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"crosslayer: error parsing {option}")
    code, out, err = crosslayer(command, *NEEDED.get(command, []), option)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"crosslayer: missing value for argument '{option}'")


@pytest.mark.parametrize("value", ["[/x]", "é\n\n\n\nè", "", "x " * 300, "-", "\udcff"])
def test_any_value_is_told_in_one_line(value: str):
    said = told([f"--side={value}"])
    assert said.startswith("error parsing --side: ")
    assert "\n" not in said


@pytest.mark.parametrize("words", [["--sides", "3"], ["--side", "x"], ["--side"], ["--name", "a"], ["one", "two"]])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_sentence_is_the_same_on_any_terminal(monkeypatch: pytest.MonkeyPatch, words: list[str], encoding: str):
    expected = told(words)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert told(words) == expected


def told(words: list[str]) -> str:
    with pytest.raises(UsageError) as raised:
        parse_options(Options, words, "crosslayer try")
    return str(raised.value)


def test_similar_options_are_offered():
    assert "did you mean --side?" in told(["--sides", "3"])
    assert "did you mean " in (said := told(["--sidee", "--namess"]))
    assert "--side" in said.partition("mean")[2]
    assert "--names" in said.partition("mean")[2]


def test_a_dataclass_says_itself_what_it_cannot_have():
    assert told(["--side", "0"]) == "--side is 0; it must be at least 1"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed(crosslayer, command: str):
    code, out, err = crosslayer(command, "--help")
    assert (code, err) == (0, "")
    assert f"crosslayer {command}" in out
