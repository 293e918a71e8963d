"""Whose passes over the maps a fused op takes: Triton's, or those compiled for the CPU."""

import importlib
from types import ModuleType

from torch import Tensor

from crosslayer.ops import selection


def passes_of(op: str, x: Tensor) -> ModuleType:
    """The passes of `op` for maps like x: those modules in `ops.triton` and `ops.native` have the same functions."""
    return importlib.import_module(f"crosslayer.ops.{'triton' if runs_triton(x) else 'native'}.{op}_passes")


def runs_triton(x: Tensor) -> bool:
    """Whether maps like x are Triton's."""
    return x.is_cuda or selection.INTERPRETED
