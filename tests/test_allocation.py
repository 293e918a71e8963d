"""Memory that is freed stays with the process."""

import platform
import subprocess
import sys

import pytest

LARGE_MAPS = """
import resource, sys
import torch
from crosslayer.allocation import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
for _ in range(20):
    torch.ones(12_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(12_000_000)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
@pytest.mark.exhaustive
def test_a_map_is_not_touched_anew():
    def first_touches(mode: str) -> tuple[str, int]:
        words = subprocess.run([sys.executable, "-c", LARGE_MAPS, mode], capture_output=True, text=True, check=True)
        kept, faults = words.stdout.split()
        return kept, int(faults)

    (without, many), (with_, few) = first_touches("leave"), first_touches("keep")
    assert (without, with_) == ("False", "True")
    assert few < 100 < 10_000 < many  # ten maps of 48 MB have 117,000 pages
