"""Where fused ops are tested: compiled for the CPU, in Triton's interpreter, and on a GPU where there is one."""

import os

import pytest
import torch

from crosslayer.fused import support

INTERPRETER = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(
    params=[
        "native",
        pytest.param("interpreter", marks=pytest.mark.skipif(not INTERPRETER, reason="TRITON_INTERPRET is not set")),
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
                pytest.mark.skipif(INTERPRETER, reason="TRITON_INTERPRET is set"),
            ],
        ),
    ]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where maps are, for each set of kernels: those compiled for the CPU, Triton's in its interpreter, and on CUDA."""
    obstacle = support.cpu_reason()
    if request.param == "native" and obstacle:
        pytest.skip(obstacle)
    if request.param != "native" and not support.HAS_TRITON:
        pytest.skip("triton is not installed")
    monkeypatch.setattr(support, "INTERPRETED", request.param == "interpreter")
    return "cuda" if request.param == "cuda" else "cpu"


@pytest.fixture
def native():
    """Skips where nothing can be compiled for this CPU."""
    if obstacle := support.cpu_reason():
        pytest.skip(obstacle)


@pytest.fixture
def poisoned():
    """New memory holds NaN: what a kernel leaves unwritten shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)
