"""Where fused ops run, and the reasons why they do not elsewhere."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from crosslayer.fused import support
from crosslayer.fused.cpu import compiler
from crosslayer.fused.support import log_once, unsupported_kernel, unsupported_reason

X = torch.ones(1, 2, 2, 2).contiguous(memory_format=torch.channels_last)


class Labelled(Tensor):
    pass


@pytest.mark.usefixtures("native")
def test_plain_channels_last_maps_are_taken():
    assert unsupported_reason(X) is None
    assert unsupported_reason(torch.nn.Parameter(X)) is None
    with FakeTensorMode() as mode:
        assert unsupported_reason(mode.from_tensor(X)) is None


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (X.to("meta"), "on meta"),
        (X.half(), "float16"),
        (X.long(), "int64"),
        (X.contiguous(), "not channels-last"),
        (X.as_subclass(Labelled), "Labelled"),
    ],
)
def test_maps_that_are_not_taken(x: Tensor, reason: str):
    assert reason in (unsupported_reason(x) or "")


@pytest.mark.usefixtures("native")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # PyTorch's own, for jvp
def test_what_is_going_on_around_the_op():
    reasons: list[str | None] = []

    def op(x: Tensor) -> Tensor:
        reasons.append(unsupported_reason(x))
        return x * 2

    torch.func.vmap(op)(X[None])
    torch.func.grad(lambda x: op(x).sum())(X)
    torch.func.jvp(op, (X,), (X,))
    with forward_ad.dual_level():
        op(forward_ad.make_dual(X, X))
    assert all("func" in (one or "") or "forward-mode" in (one or "") for one in reasons), reasons
    assert len(reasons) == 4
    op(X)
    assert reasons[-1] is None


@pytest.mark.compiled
@pytest.mark.usefixtures("native")
def test_it_traces_into_one_graph_and_says_no_to_exports():
    def op(x: Tensor) -> Tensor:
        return x * 2 if unsupported_reason(x) is None else x * 3

    compiled = torch.compile(op, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), X * 2)
    torch.testing.assert_close(compiled(X.contiguous()), X * 3)

    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return op(x)

    torch.testing.assert_close(torch.export.export(Module(), (X,)).module()(X), X * 3)


def test_kernels_of_another_size_are_named():
    assert unsupported_kernel(torch.ones(2, 1, 3, 3), None) is None
    assert "5×3" in (unsupported_kernel(torch.ones(2, 1, 3, 3), torch.ones(2, 1, 5, 3)) or "")


def test_on_a_gpu_without_triton(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(support, "INTERPRETED", True)
    monkeypatch.setattr(support, "HAS_TRITON", False)
    assert unsupported_reason(X) == "triton is not installed"


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiler.built_library.cache_clear()
    assert "no C++ compiler is installed" in (unsupported_reason(X) or "")
    compiler.built_library.cache_clear()


def test_what_a_compiler_complains_of_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    broken = tmp_path / "c++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "no vectors here" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("CROSSLAYER_CACHE", str(tmp_path / "cache"))
    compiler.built_library.cache_clear()
    reason = compiler.obstacle() or ""
    assert "cannot compile" in reason
    assert "no vectors here" in reason
    assert not list((tmp_path / "cache" / "native").glob("*"))
    compiler.built_library.cache_clear()


def test_every_source_is_a_library():
    assert sorted(path.parent.name for path in compiler.SOURCES.glob("*/cpu.cpp")) == sorted(compiler.LIBRARIES)


def test_a_message_is_logged_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(support, "_logged", set())
    with caplog.at_level(logging.INFO, "crosslayer"):
        log_once("told")
        log_once("told")
    assert [record.message for record in caplog.records] == ["told"]
