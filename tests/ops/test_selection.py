"""Which implementation runs, and that nothing of it stays in a model."""

import logging
import re

import pytest
import torch

from crosslayer.ops import get_implementation, history_sum, implementation, selection, set_implementation

VALUES = [torch.ones(1, 2, 1, 1)]
WEIGHTS = torch.ones(1, 1, 1)


def test_auto_is_the_default_and_says_once_what_it_takes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(selection, "_said", set())
    assert get_implementation() == "auto"
    with caplog.at_level(logging.INFO, "crosslayer"):
        history_sum(VALUES, WEIGHTS)
        history_sum(VALUES, WEIGHTS)
    assert [record.message for record in caplog.records] == ["ops on cpu run as plain PyTorch"]


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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("INTERPRETED", False, "tensors are on cpu"), ("HAS_TRITON", False, "triton is not installed")],
)
def test_fused_where_it_cannot_run_is_an_error(name: str, value: bool, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(selection, name, value)
    with implementation("fused"), pytest.raises(ValueError, match=f"history_sum cannot run fused: {message}"):
        history_sum(VALUES, WEIGHTS)
    history_sum(VALUES, WEIGHTS)


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
    compiled(VALUES[0])
    with implementation("fused"):
        compiled(VALUES[0])
    assert ["crosslayer.history_sum" in graph.code for graph in graphs] == [False, True]
