"""Options of commands with values of every kind: works, or is refused without a traceback."""

import dataclasses
import os
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslayer.benchmark.configuration import Plan
from crosslayer.training.launch import Launch
from crosslayer.training.recipe import Recipe, flag
from tests.conftest import QUICK
from tests.faults.conftest import Sound

VALUES = ("nan", "inf", "-inf", "", "-1", "0", "1e400", "1" + "0" * 30, "text", "1.5", "[]", "\0", "é\n", "None")
OPTIONS = [field.name for part in (Recipe, Launch) for field in dataclasses.fields(part)]
FEW = {("lr", "nan"), ("epochs", "1" + "0" * 30), ("mixup", "inf"), ("workers", "1" + "0" * 30), ("image_size", "-1")}


def all_of_them() -> list:
    pairs = [(name, value) for name in OPTIONS for value in VALUES if name not in ("output", "resume")]
    return [
        pytest.param(*pair, marks=() if pair in FEW else pytest.mark.faults, id=f"{pair[0]}-{pair[1][:6]!r}")
        for pair in pairs
    ]


@pytest.mark.parametrize(("name", "value"), all_of_them())
def test_any_value(crosslayer, image_tree: Path, tmp_path: Path, name: str, value: str):
    words = ("train", "--data", image_tree, *QUICK, "--max-steps", 1, "--output", tmp_path / "run")
    code, out, err = crosslayer(*words, f"{flag(name)}={value}")
    assert code in (0, 1, 2), err
    assert "Traceback" not in out + err
    if code == 2:
        assert not (tmp_path / "run").exists()
    if (name, value) in FEW:
        assert code == 2
        assert flag(name) in err
        assert err.count("\n") == 1


TEXTS = st.text(st.characters(exclude_characters="/."), max_size=300)
"""No folder but the current one is named: what works is written there."""
NUMBERS = st.one_of(st.integers().map(str), st.floats().map(str))
ODD = st.one_of(st.sampled_from([*VALUES, "[/x]", "[bold]", "\udcff", "a" * 300]), NUMBERS, TEXTS)
NEEDED = {
    "attention": ("RUN",),
    "bench": ("--backbones=cifar_resnet20", "--rounds=1", "--seconds=0.01", "--batch-sizes=1", "--image-sizes=8"),
    "evaluate": ("RUN", "--workers=0"),
    "explain": ("RUN", "PICTURE"),
    "export": ("RUN", "--output=x.onnx"),
    "list": (),
    "predict": ("RUN", "PICTURE"),
    "profile": ("cifar_resnet20",),
    "report": ("FOLDER",),
    "reproduce": ("table1", "--dry-run"),
    "verify": ("RUN",),
}
"""Words without a fault. `train` is tried above, `compare` has no options, `push` and `demo` reach the network."""


LONG = ("rounds", "seconds")
"""Of bench: how long it works is what they say."""
POSITIONAL = ("run", "runs", "images", "paths", "folder", "study", "network", "backbone")


def options_of(command: str) -> list[str]:
    """Every option of a command, as it is written."""
    if command == "list":
        return ["--papers"]
    fields = dataclasses.fields(import_module(f"crosslayer.commands.{command}").Options)
    nested = dataclasses.fields(Plan) if command == "bench" else ()
    names = [field.name for field in (*fields, *nested) if field.name not in ("plan", *LONG)]
    return [flag(name) for name in names if name not in POSITIONAL]


@pytest.mark.faults
@pytest.mark.parametrize("command", NEEDED)
def test_any_values_of_the_other_commands(
    crosslayer, sound: Sound, image_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
):
    stand = {"RUN": sound.copy(tmp_path / "runs" / "run"), "PICTURE": next(image_tree.rglob("*.png"))}
    stand["FOLDER"] = tmp_path / "runs"
    needed = [stand.get(word, word) for word in NEEDED[command]]
    pairs = st.lists(st.tuples(st.sampled_from(options_of(command)), ODD), min_size=1, max_size=2)

    @settings(max_examples=25, deadline=None, database=None, derandomize=True)
    @given(pairs)
    def any_values(given: list[tuple[str, str]]) -> None:
        before = everything(tmp_path)
        code, out, err = crosslayer(command, *needed, *(f"{name}={value}" for name, value in given))
        assert code in (0, 1, 2), err
        assert "Traceback" not in out + err
        assert len([line for line in err.splitlines() if not line.startswith("preparing")]) <= 3, err  # bench tells
        if code == 2:
            assert everything(tmp_path) == before

    monkeypatch.chdir(tmp_path)
    any_values()


def everything(folder: Path) -> set[bytes]:
    """All files' names, as bytes: some are no UTF-8."""
    return {os.fsencode(file) for file in folder.rglob("*")}


OUTPUTS = (
    "[bold]x[/bold]",
    "[/x]",
    ":dog:",
    "$5_$10",
    "two\nlines",
    "caf\udce9",
    "a" * 300,
    "x/" * 3000,
    "\t",
    "~",
    "-",
)


@pytest.mark.parametrize("name", [pytest.param(name, id=ascii(name)[:12]) for name in OUTPUTS])
@pytest.mark.parametrize("command", ["train", "attention", "evaluate", "explain", "export", "report"])
@pytest.mark.sampled(8)
def test_output_of_any_name(
    crosslayer, sound: Sound, image_tree: Path, tmp_path: Path, monkeypatch, command: str, name: str
):
    monkeypatch.chdir(tmp_path)
    picture, run = next(image_tree.rglob("*.png")), sound.copy(tmp_path / "runs" / "run")
    output = f"{name}.onnx" if command == "export" else f"{name}.html" if command == "report" else name
    words = {
        "train": ("--data", image_tree, *QUICK, "--max-steps", 1),
        "report": (tmp_path / "runs",),
        "explain": (run, picture),
    }
    code, out, err = crosslayer(command, *words.get(command, (run,)), f"--output={output}")
    assert code in (0, 1, 2), err
    assert "Traceback" not in out + err
    assert len(err.strip().splitlines()) <= 3, err
    if code == 0:
        made = "runs/run/" + output if command == "evaluate" else output
        assert Path(made).exists() or Path(output).exists()
        told = "".join((out + err).split())
        assert "".join(output.split()) in told or ascii(output)[1:-1] in told
