"""The depth benchmark, at sizes too small to time: it runs, prints every row and draws."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "depth.py"
SMALL = ["--batch-size", "2", "--width", "4", "--side", "4", "--rounds", "1", "--depths", "1", "2"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *SMALL, *words], capture_output=True, text=True, check=False)


@pytest.mark.exhaustive
def test_every_mechanism_has_a_row(tmp_path: Path):
    done = run("--mechanisms", "none", "dla_b", "--training", "--plot", str(tmp_path / "depth.png"))
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ms", "none", "dla_b", "one"]
    assert (tmp_path / "depth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.exhaustive
def test_nothing_is_measured_at_no_depth():
    done = run("--depths", "0")
    assert done.returncode == 2
    assert "at least 1" in done.stderr
    assert "Traceback" not in done.stderr
