"""What an installed wheel brings."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.exhaustive
def test_a_project_that_installs_the_wheel_sees_types(tmp_path: Path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    # A name's type is read from the wheel alone: in an environment that holds nothing else.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    installed = tmp_path / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        assert "crosslayer/py.typed" in archive.namelist()
        archive.extractall(installed)
    (tmp_path / "use.py").write_text(
        "import crosslayer\n\nreveal_type(crosslayer.list_mechanisms())\ncrosslayer.nothing\n"
    )
    python = str(tmp_path / "venv" / "bin" / "python")
    check = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", python, "use.py"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert 'Type of "crosslayer.list_mechanisms()" is "list[str]"' in check.stdout, check.stdout
    assert '"nothing" is not a known attribute of module "crosslayer"' in check.stdout, check.stdout
    assert "1 error," in check.stdout, check.stdout
