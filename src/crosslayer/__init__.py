"""crosslayer: layer attention for PyTorch vision networks."""

import os

# Threads that wait for each other sleep instead of spinning, unless the user has decided. Where anything else runs on
# the machine's cores, spinning costs DLA-L on a CPU nine tenths of its speed. OpenMP reads this as torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from crosslayer.models import create_model, graft, list_backbones, list_mechanisms, load_released, param_groups

__version__ = "0.1.0"
__all__ = ["create_model", "graft", "list_backbones", "list_mechanisms", "load_released", "param_groups"]
