"""The README's Python runs, and its new mechanism holds to the contract of all others."""

import importlib.util
import re
from pathlib import Path

import pytest

from crosslayer.mechanisms.interface import _REGISTRY
from tests.mechanisms import test_contract

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def python_in(page: Path) -> list[tuple[str, str]]:
    """Marks and code of a page's Python blocks."""
    return re.findall(r"^```python([^\n]*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/grafting.md", "docs/detection.md"])
def test_python_examples_run(page: str):
    examples = [code for mark, code in python_in(ROOT / page) if not mark.strip()]
    assert examples
    for code in examples:
        exec(compile(code, page, "exec"), {})


@pytest.fixture
def recall(tmp_path: Path):
    (code,) = [code for mark, code in python_in(ROOT / "README.md") if "file=recall.py" in mark]
    (tmp_path / "recall.py").write_text(code)
    spec = importlib.util.spec_from_file_location("recall", tmp_path / "recall.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield "recall"
    del _REGISTRY["recall"]


def test_new_mechanism_holds_to_the_contract(recall: str):
    for backbone in ("cifar_resnet20", "deit", "timm_efficientnet"):
        test_contract.test_any_input_size(backbone, recall)
        test_contract.test_every_parameter_gets_a_finite_gradient(backbone, recall)
        test_contract.test_mechanism_parameters_matter(backbone, recall)
        test_contract.test_evaluation_is_independent_of_the_batch(backbone, recall)
        test_contract.test_state_dict_round_trip(backbone, recall)
        test_contract.test_memory_format_and_dtype_are_kept(backbone, recall)
        test_contract.test_autocast_trains_close_to_full_precision(backbone, recall)
        test_contract.test_state_is_passed_not_kept(backbone, recall)
    test_contract.test_parameters_are_those_of_the_backbone_and_of_its_stages(recall)


@pytest.mark.compiled
def test_new_mechanism_compiles_and_exports(recall: str):
    test_contract.test_compiles_as_one_graph("cifar_resnet20", recall)
    test_contract.test_exports_with_any_batch_size("cifar_resnet20", recall)


def test_every_command_is_named():
    from crosslayer.cli import COMMANDS

    for command in COMMANDS:
        assert f"crosslayer {command}" in README
