"""Whose passes over the maps a fused op takes: Triton's, or those compiled for the CPU."""

from types import ModuleType

from torch import Tensor

from crosslayer.ops import selection


def light_passes(x: Tensor) -> ModuleType:
    """The four passes of `light_merge_norm`; both modules have the same functions."""
    if runs_triton(x):
        from crosslayer.ops.triton import light_passes
    else:
        from crosslayer.ops.native import light_passes
    return light_passes


def residual_passes(x: Tensor) -> ModuleType:
    """The four passes of `residual_output`, likewise."""
    if runs_triton(x):
        from crosslayer.ops.triton import residual_passes
    else:
        from crosslayer.ops.native import residual_passes
    return residual_passes


def history_passes(x: Tensor) -> ModuleType:
    """The two passes of `history_sum`, likewise."""
    if runs_triton(x):
        from crosslayer.ops.triton import history_passes
    else:
        from crosslayer.ops.native import history_passes
    return history_passes


def runs_triton(x: Tensor) -> bool:
    """Whether maps like x are Triton's."""
    return x.is_cuda or selection.INTERPRETED
