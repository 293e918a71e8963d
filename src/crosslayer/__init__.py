"""crosslayer: layer attention for PyTorch vision networks."""

import os
from typing import TYPE_CHECKING, Any

# Threads that wait for each other sleep instead of spinning, unless the user has decided. Where anything else runs on
# the machine's cores, spinning costs DLA-L on a CPU nine tenths of its speed. OpenMP reads this as torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

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
