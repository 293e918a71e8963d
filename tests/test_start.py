"""What is imported for what: a command that runs nothing starts at once, and timm learns the names when it comes."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "timm", "torchvision", "numpy", "rich", "tyro", "pyarrow", "matplotlib", "accelerate"}
SECONDS_OF_IMPORTS = {
    "timm",
    "torchvision",
    "torch._dynamo",
    "accelerate",
    "matplotlib",
    "sklearn",
    "scipy",
}
SAY = "import sys; print('\\n' + '\\n'.join(sys.modules))"


def imported_by(code: str) -> set[str]:
    """Names of all modules that a fresh interpreter has after the code."""
    ran = subprocess.run([sys.executable, "-c", f"{code}\n{SAY}"], capture_output=True, text=True, check=True)
    return set(ran.stdout.splitlines())


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["trian"]])
def test_a_command_line_that_runs_nothing_imports_nothing_heavy(words: list[str]):
    modules = imported_by(f"from crosslayer.cli import main; main({words!r})")
    assert not modules & HEAVY
    assert len(modules) < 200


def test_the_package_is_imported_without_torch():
    assert not imported_by("import crosslayer") & HEAVY


def test_listing_imports_little_beyond_torch():
    modules = imported_by("from crosslayer.cli import main; main(['list'])")
    assert "torch" in modules
    assert not modules & SECONDS_OF_IMPORTS


@pytest.mark.parametrize(
    "imports",
    [
        "import crosslayer, timm",
        "import timm, crosslayer",
        pytest.param("import timm.layers, crosslayer", marks=pytest.mark.exhaustive),
        pytest.param("import crosslayer.models.grafting, timm", marks=pytest.mark.exhaustive),
        pytest.param("import crosslayer.fused.light_pass, timm", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.sampled(2)
def test_timm_knows_the_names_in_either_order_of_imports(imports: str):
    ran = subprocess.run(
        [sys.executable, "-c", f"{imports}\nprint(timm.is_model('resnet50_dla_l'), timm.is_model('deit_tiny_mrla_b'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["True", "True"]
