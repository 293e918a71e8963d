"""The pages' Python runs, and the new mechanisms they show hold to the contract of all others."""

import importlib.util
import re
from pathlib import Path

import pytest

from crosslayer.mechanisms.registry import _REGISTRY
from tests.mechanisms import test_contract

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def python_in(page: Path) -> list[tuple[str, str]]:
    """Marks and code of a page's Python blocks."""
    return re.findall(r"^```python([^\n]*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/grafting.md", "docs/detection.md", "docs/ops.md"])
def test_python_examples_run(page: str):
    examples = [code for mark, code in python_in(ROOT / page) if not mark.strip()]
    assert examples
    for code in examples:
        exec(compile(code, page, "exec"), {})


NEW = [("README.md", "recall"), ("docs/mechanisms.md", "depth_average"), ("docs/mechanisms.md", "soft_join")]


@pytest.fixture(params=NEW, ids=[name for _, name in NEW])
def newcomer(tmp_path: Path, request: pytest.FixtureRequest):
    """A mechanism that a page shows, as a user would put it into a file."""
    page, name = request.param
    (code,) = [code for mark, code in python_in(ROOT / page) if f"file={name}.py" in mark]
    (tmp_path / f"{name}.py").write_text(code)
    spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield name
    del _REGISTRY[name]


@pytest.mark.sampled(2)
def test_new_mechanism_holds_to_the_contract(newcomer: str):
    for backbone in ("cifar_resnet20", "deit", "deit_sublayers", "timm_efficientnet", "timm_vit"):
        test_contract.test_any_input_size(backbone, newcomer)
        test_contract.test_every_parameter_gets_a_finite_gradient(backbone, newcomer)
        test_contract.test_evaluation_is_independent_of_the_batch(backbone, newcomer)
        test_contract.test_state_dict_round_trip(backbone, newcomer)
        test_contract.test_memory_format_and_dtype_are_kept(backbone, newcomer)
        test_contract.test_autocast_trains_close_to_full_precision(backbone, newcomer)
        test_contract.test_state_is_passed_not_kept(backbone, newcomer)
    test_contract.test_mechanism_parameters_matter("cifar_resnet20", newcomer)
    test_contract.test_parameters_are_those_of_the_backbone_and_of_its_stages(newcomer)


@pytest.mark.compiled
def test_new_mechanism_compiles_and_exports(newcomer: str):
    test_contract.test_compiles_as_one_graph("cifar_resnet20", newcomer)
    test_contract.test_exports_with_any_batch_size("cifar_resnet20", newcomer)


def test_every_command_is_named():
    from crosslayer.cli import COMMANDS

    for command in COMMANDS:
        assert f"crosslayer {command}" in README
