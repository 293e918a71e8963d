"""Options of commands with values of every kind: works, or is refused without a traceback."""

import dataclasses
import os
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
TRIED = ("evaluate", "predict")


def options_of(command: str) -> list[str]:
    """Every option of a command, as it is written."""
    fields = dataclasses.fields(import_module(f"crosslayer.commands.{command}").Options)
    return [flag(field.name) for field in fields if field.default is not dataclasses.MISSING]


@pytest.mark.faults
@pytest.mark.parametrize("command", TRIED)
def test_any_values_of_the_other_commands(
    crosslayer, sound: Sound, image_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
):
    run, picture = sound.copy(tmp_path / "run"), next(image_tree.rglob("*.png"))
    needed = {"evaluate": ("--workers=0", "--device=cpu"), "predict": (picture,)}
    pairs = st.lists(st.tuples(st.sampled_from(options_of(command)), ODD), min_size=1, max_size=2)

    @settings(max_examples=25, deadline=None, database=None, derandomize=True)
    @given(pairs)
    def any_values(given: list[tuple[str, str]]) -> None:
        before = everything(tmp_path)
        words = (command, run, *needed[command], *(f"{name}={value}" for name, value in given))
        code, out, err = crosslayer(*words)
        assert code in (0, 1, 2), err
        assert "Traceback" not in out + err
        assert len(err.strip().splitlines()) <= 3, err
        if code == 2:
            assert everything(tmp_path) == before

    monkeypatch.chdir(tmp_path)
    any_values()


def everything(folder: Path) -> set[bytes]:
    """All files' names, as bytes: some are no UTF-8."""
    return {os.fsencode(file) for file in folder.rglob("*")}
