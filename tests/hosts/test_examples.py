"""What docs/grafting.md shows of other packages runs."""

from pathlib import Path

import pytest

from tests.test_readme import ROOT, python_in

EXAMPLES = {
    mark.strip().removeprefix("hosts="): code
    for mark, code in python_in(ROOT / "docs" / "grafting.md")
    if "hosts=" in mark
}


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in what transformers imports where it is there
@pytest.mark.parametrize("package", ["transformers", "segmentation_models_pytorch", "ultralytics"])
def test_example_runs(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[package], "docs/grafting.md", "exec"), {})
