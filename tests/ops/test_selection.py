"""Which implementation runs, and that nothing of it stays in a model."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crosslayer.ops import (
    get_implementation,
    implementation,
    selection,
    set_implementation,
    store_value,
)
from crosslayer.ops import (
    history_sum as sum_of_stored,
)
from crosslayer.ops.native import compiler

VALUES = [torch.ones(1, 2, 2, 2).contiguous(memory_format=torch.channels_last)]
WEIGHTS = torch.ones(1, 1, 1)


def history_sum(values: list[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """Of values that are stored and read once."""
    return sum_of_stored([store_value(value, 1) for value in values], weights)


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(selection, "_said", set())
    with caplog.at_level(logging.INFO, "crosslayer"):
        yield lambda: [record.message for record in caplog.records]


def test_auto_is_the_default_and_says_once_what_it_takes(messages: Callable[[], list[str]]):
    assert get_implementation() == "auto"
    history_sum([VALUES[0].contiguous()], WEIGHTS)
    history_sum(VALUES, WEIGHTS)
    history_sum(VALUES, WEIGHTS)
    obstacle = selection.native_obstacle()
    assert messages() == [f"ops on cpu run as plain PyTorch: {obstacle}" if obstacle else "ops on cpu run fused"]


def test_without_a_compiler_auto_falls_back_and_fused_is_refused(
    messages: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiler.built_library.cache_clear()
    torch.testing.assert_close(history_sum(VALUES, WEIGHTS), VALUES[0])
    assert "no C++ compiler is installed" in messages()[0]
    with implementation("fused"), pytest.raises(ValueError, match="history_sum cannot run fused: no C"):
        history_sum(VALUES, WEIGHTS)
    compiler.built_library.cache_clear()


def test_what_a_compiler_complains_of_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    broken = tmp_path / "c++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "no vectors here" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("CROSSLAYER_CACHE", str(tmp_path / "cache"))
    compiler.built_library.cache_clear()
    assert re.search("cannot compile .*no vectors here", compiler.obstacle() or "")
    assert not list((tmp_path / "cache" / "native").iterdir())
    compiler.built_library.cache_clear()


def test_what_is_exported_is_in_pytorchs_own_operations():
    class Sum(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return history_sum([x], WEIGHTS)

    exported = torch.export.export(Sum(), tuple(VALUES))
    assert "crosslayer" not in exported.graph_module.code


def test_the_choice_ends_with_its_block_also_after_an_error():
    with implementation("reference"):
        assert get_implementation() == "reference"
    with pytest.raises(ZeroDivisionError), implementation("reference"):
        _ = 1 // 0
    assert get_implementation() == "auto"


@pytest.mark.mistyped
def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="auto, reference, fused"):
        set_implementation("fast")  # type: ignore[arg-type]  # on purpose


def test_fused_on_a_gpu_without_triton_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(selection, "INTERPRETED", True)
    monkeypatch.setattr(selection, "HAS_TRITON", False)
    with implementation("fused"), pytest.raises(ValueError, match="cannot run fused: triton is not installed"):
        history_sum(VALUES, WEIGHTS)
    history_sum(VALUES, WEIGHTS)


def test_fused_on_another_device_is_an_error():
    with implementation("fused"), pytest.raises(ValueError, match="cannot run fused: tensors are on meta"):
        history_sum([VALUES[0].to("meta")], WEIGHTS.to("meta"))


def test_a_kernel_of_another_size_has_no_fused_form():
    from crosslayer.ops.light_merge_norm import obstacle

    assert obstacle(torch.ones(2, 1, 3, 3), None) is None
    assert re.search("5×3", obstacle(torch.ones(2, 1, 3, 3), torch.ones(2, 1, 5, 3)) or "")


@pytest.mark.compiled
def test_a_compiled_graph_notices_a_change():
    def op(x: torch.Tensor) -> torch.Tensor:
        return history_sum([x], WEIGHTS)

    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _inputs: object):
        graphs.append(graph)
        return graph

    compiled = torch.compile(op, backend=keep, fullgraph=True)
    for name in ("reference", "fused"):
        with implementation(name):
            compiled(VALUES[0])
    assert ["crosslayer.history_sum" in graph.code for graph in graphs] == [False, True]


def test_every_source_is_a_library():
    assert sorted(path.stem for path in compiler.SOURCES.glob("*.cpp")) == sorted(compiler.LIBRARIES)
