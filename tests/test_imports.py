"""Arrows between files and folders point one way, and a mechanism is read in few files."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src"


def modules() -> dict[str, Path]:
    """Every file of the package by its module's name."""
    named = {}
    for path in sorted((ROOT / "crosslayer").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


MODULES = modules()


def imported(path: Path, *, within_functions: bool) -> set[str]:
    """The package's modules that a file imports; what only a type checker sees is left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not within_functions:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in MODULES else node.module for name in names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return {name for name in found if name in MODULES}


def file_graph() -> dict[str, set[str]]:
    return {name: imported(path, within_functions=True) - {name} for name, path in MODULES.items()}


def folder_of(name: str) -> str:
    """A module's folder below the package; files beside the folders are folders of their own."""
    return ".".join(name.split(".")[:2])


def folder_graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for name, others in file_graph().items():
        graph.setdefault(folder_of(name), set()).update(folder_of(other) for other in others)
    return {name: others - {name} for name, others in graph.items()}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Some circle of a graph, or nothing."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        done.add(name)
        for other in sorted(graph.get(name, ())):
            if found := walk(other, [*way, name]):
                return found
        return []

    for start in sorted(graph):
        if found := walk(start, []):
            return found
    return []


def reach(name: str) -> set[str]:
    """Every file of the package that is imported with a module, its packages among them."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        parts = here.split(".")
        waiting += [".".join(parts[:n]) for n in range(1, len(parts))]
        waiting += imported(MODULES[here], within_functions=False)
    return seen


def test_files_import_each_other_in_no_circle():
    assert cycle(file_graph()) == []


def test_folders_import_each_other_in_no_circle():
    graph = folder_graph()
    graph.pop("crosslayer", None)  # the public face, which brings what it names when it is asked
    assert cycle(graph) == []


@pytest.mark.parametrize("folder", ["ops", "mechanisms"])
def test_equations_import_nothing_of_the_rest(folder: str):
    allowed = {"crosslayer", "crosslayer.ops", "crosslayer.mechanisms"}
    assert folder_graph()[f"crosslayer.{folder}"] <= allowed


@pytest.mark.parametrize(("mechanism", "most"), [("se", 8), ("dla_l", 15)])
def test_a_mechanism_is_read_in_few_files(mechanism: str, most: int):
    files = reach(f"crosslayer.mechanisms.{mechanism}")
    assert len(files) <= most, sorted(files)


SPEED = r"\bfused\b|known pool|channels_last|memory_format|is_grad_enabled|device\.type|is_cuda|torch\.compiler"


@pytest.mark.parametrize(
    "name", [name for name in MODULES if folder_of(name) in ("crosslayer.mechanisms", "crosslayer.ops")]
)
def test_equations_say_nothing_of_speed(name: str):
    assert re.findall(SPEED, MODULES[name].read_text()) == []
