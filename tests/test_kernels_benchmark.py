"""Triton's kernels as they are compiled for a GPU that is not there: they compile, and keep everything in registers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crosslayer.fused import support

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "kernels.py"
LAUNCHED = {
    *("residual_moments_kernel", "residual_output_kernel", "residual_norm_sums_kernel", "residual_gradients_kernel"),
    *("merge_moments_kernel", "merge_normalise_kernel", "merge_norm_sums_kernel", "merge_gradient_kernel"),
    *("value_kernel", "value_gradient_kernel", "residual_norm_gradient_kernel", "forward_kernel", "backward_kernel"),
}


@pytest.mark.skipif(not support.HAS_TRITON, reason="triton is not installed")
@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_kernel_compiles_for_hopper_without_spilling(dtype: str, tmp_path: Path):
    words = [sys.executable, SCRIPT, "--dtype", dtype]
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if not line.startswith("#")]
    assert {words[0] for words in lines} == LAUNCHED
    assert all(words[2:5] == ["registers", "0", "bytes"] for words in lines)
