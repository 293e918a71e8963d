"""A Space's folder runs the page: what it names is there, and its network is the run's."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml

import crosslayer as package
from crosslayer.demo.space import write_space


@pytest.fixture
def space(demo_runs: dict[str, Path], tmp_path: Path) -> Path:
    write_space(package.load(demo_runs["dla_l"]), tmp_path / "space", "A page's title", "eyes")
    return tmp_path / "space"


def test_what_a_space_holds(space: Path, demo_runs: dict[str, Path]):
    assert {file.name for file in space.iterdir()} == {"README.md", "app.py", "network", "requirements.txt"}
    header = yaml.safe_load((space / "README.md").read_text().split("---\n")[1])
    assert (header["title"], header["sdk"], header["app_file"]) == ("eyes", "gradio", "app.py")
    assert (space / "requirements.txt").read_text() == f"crosslayer[demo]=={package.__version__}\n"
    ours, theirs = package.load(demo_runs["dla_l"]), package.load(space / "network")
    weights = theirs.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in ours.state_dict().items())
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(theirs(x), ours(x))  # the run's are channels-last, and sum in another order
    assert theirs.class_names == ("bright", "dark")


SERVED = """
import runpy
from crosslayer.demo import page
page.serve = lambda built: print(built.title)
runpy.run_path("app.py")
"""


@pytest.mark.exhaustive
def test_a_spaces_program_serves_the_page(space: Path):
    pytest.importorskip("gradio_client", reason="gradio (the extra demo) is not installed")
    words = [sys.executable, "-c", SERVED]
    assert subprocess.run(words, cwd=space, capture_output=True, text=True, check=True).stdout == "A page's title\n"


def test_push_as_a_space(crosslayer, demo_runs: dict[str, Path], monkeypatch):
    done: list[tuple[str, Any]] = []

    class Hub:
        def __init__(self, **_: Any) -> None: ...

        def create_repo(self, name: str, **how: Any) -> None:
            done.append((name, how))

        def upload_folder(self, *, folder_path: Path, **how: Any) -> str:
            done.append((sorted(file.name for file in folder_path.iterdir()), how))
            return "https://hub/commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    code, out, err = crosslayer("push", demo_runs["dla_l"], "owner/eyes", "--space", "--private")
    assert code == 0, err
    assert "https://hub/commit" in out
    (name, made), (files, sent) = done
    assert name == "owner/eyes"
    assert made == {"private": True, "exist_ok": True, "repo_type": "space", "space_sdk": "gradio"}
    assert files == ["README.md", "app.py", "network", "requirements.txt"]
    assert sent["repo_type"] == "space"


def test_a_name_that_is_none_is_told_before_anything_is_sent(crosslayer, demo_runs: dict[str, Path], monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    code, _, err = crosslayer("push", demo_runs["dla_l"], "eyes", "--space")
    assert code == 2
    assert "write it as OWNER/NAME" in err
