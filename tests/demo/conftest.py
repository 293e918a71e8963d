"""Runs of a network that looks back, and of one that does not."""

from pathlib import Path

import pytest

from crosslayer.cli import main
from tests.conftest import QUICK


@pytest.fixture(scope="session")
def demo_runs(tmp_path_factory: pytest.TempPathFactory, image_tree: Path) -> dict[str, Path]:
    root, made = tmp_path_factory.mktemp("demo"), {}
    for mechanism in ("dla_l", "se"):
        made[mechanism] = root / mechanism
        words = ["train", "--data", image_tree, *QUICK, "--no-fused", "--mechanism", mechanism, "--output"]
        assert main([str(word) for word in (*words, made[mechanism])]) == 0
    return made
