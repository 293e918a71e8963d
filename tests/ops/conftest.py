"""Where fused ops are tested: in Triton's interpreter on a CPU, and on a GPU where there is one."""

import pytest
import torch

from crosslayer.ops import selection


@pytest.fixture(
    params=[
        pytest.param("cpu", marks=pytest.mark.skipif(not selection.INTERPRETED, reason="TRITON_INTERPRET is not set")),
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
                pytest.mark.skipif(selection.INTERPRETED, reason="TRITON_INTERPRET is set"),
            ],
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    if not selection.HAS_TRITON:
        pytest.skip("triton is not installed")
    return request.param


@pytest.fixture
def poisoned():
    """New memory holds NaN: what a kernel leaves unwritten shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)
