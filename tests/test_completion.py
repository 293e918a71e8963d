"""Completion scripts know every command and its options, and are scripts that their shells take."""

import shutil
import subprocess
from pathlib import Path

import pytest

from crosslayer.cli import COMMANDS
from crosslayer.completion import SHELLS


@pytest.fixture
def script(crosslayer, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    code, out, err = crosslayer("--print-completion", request.param)
    assert code == 0, err
    (tmp_path / request.param).write_text(out)
    return tmp_path / request.param


@pytest.mark.parametrize("script", SHELLS, indirect=True)
def test_a_script_has_every_command(script: Path):
    text = script.read_text()
    assert all(name in text for name in COMMANDS)
    assert "log-with" in text
    if shutil.which(script.name):
        subprocess.run([script.name, "-n", script], check=True)


@pytest.mark.parametrize("script", ["bash"], indirect=True)
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ev"], {"evaluate"}),
        (["--v"], {"--version"}),
        (["predict", "--thr"], {"--threshold"}),
        (["train", "--log-"], {"--log-with", "--log-steps"}),
        (["predict", "x"], set()),
    ],
)
def test_bash_completes(script: Path, words: list[str], offered: set[str]):
    line = " ".join(["crosslayer", *words])
    ask = f'source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _crosslayer; echo "${{COMPREPLY[@]}}"'
    said = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True).stdout
    assert set(said.split()) == offered


def test_another_shell_is_told(crosslayer):
    code, _, err = crosslayer("--print-completion", "tcsh")
    assert code == 2
    assert "takes one of bash, zsh, fish" in err
