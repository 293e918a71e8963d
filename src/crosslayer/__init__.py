"""crosslayer: layer attention for PyTorch vision networks."""

import os
from typing import TYPE_CHECKING, Any

# Threads that wait for each other spin for half a millisecond, then sleep, unless the user has decided: a mechanism's
# small kernels follow each other within that time, and waking a thread costs more than they do; but where anything
# else runs on the cores, threads that only spin take them from it. OpenMP reads this as torch is imported, GNU's
# runtime the number and others the policy.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from crosslayer.models import create_model, graft, list_backbones, list_mechanisms, load_released, param_groups

if TYPE_CHECKING:
    from crosslayer.detection.detector import create_detector

__version__ = "0.1.0"
__all__ = [
    "create_detector",
    "create_model",
    "graft",
    "list_backbones",
    "list_mechanisms",
    "load_released",
    "param_groups",
]


def __getattr__(name: str) -> Any:
    """`create_detector`, which brings torchvision's detectors, when it is asked for."""
    if name != "create_detector":
        raise AttributeError(f"module 'crosslayer' has no attribute {name!r}")
    from crosslayer.detection.detector import create_detector

    return create_detector
