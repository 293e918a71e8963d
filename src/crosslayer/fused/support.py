"""Where the fused ops run, whose passes over maps they take there, and why they do not run elsewhere."""

import importlib.util
import logging

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from crosslayer.fused.cpu import compiler
from crosslayer.fused.layout import channels_last

GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CPU_DTYPES = (torch.float32, torch.bfloat16, torch.float64)
HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = False
"""Whether Triton's kernels run in its interpreter, on any device: for tests, which set TRITON_INTERPRET=1 too."""

_logged: set[str] = set()
_logger = logging.getLogger(__name__)


def runs_triton(x: Tensor) -> bool:
    """Whether maps like x are Triton's; else they are the C++ passes'."""
    return x.is_cuda or INTERPRETED


def unsupported_reason(x: Tensor) -> str | None:
    """Why no fused op runs on a map like x here and now, in a short clause; None where they run."""
    return _unsupported_context() or _unsupported_map(x)


def unsupported_kernel(*kernels: Tensor | None) -> str | None:
    """Why the passes cannot take one of these depth-wise kernels, if so."""
    for kernel in kernels:
        if kernel is not None and tuple(kernel.shape[2:]) != (3, 3):
            return f"a depth-wise kernel is {kernel.shape[2]}×{kernel.shape[3]}, and the passes are written for 3×3"
    return None


@torch.compiler.assume_constant_result
def log_once(message: str) -> None:
    """Logs a warning that is new; a graph being traced sees nothing of it."""
    if message not in _logged:
        _logged.add(message)
        _logger.warning(message)


def _unsupported_context() -> str | None:
    if torch._C._get_tracing_state() is not None:
        return "torch.jit traces"
    if torch.compiler.is_exporting():
        return "the model is exported"
    if torch._C._are_functorch_transforms_active():
        return "torch.func transforms have PyTorch's own operations only"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation has PyTorch's own operations only"
    return None


def unavailable(device: torch.device, dtype: torch.dtype = torch.float32) -> str | None:
    """Why no fused op runs on maps of this dtype on a device, in a short clause; None where they run."""
    triton = device.type == "cuda" or INTERPRETED
    if triton and not HAS_TRITON:
        return "triton is not installed"
    if not triton and device.type != "cpu":
        return f"maps are on {device.type}, and there are passes for CUDA and for the CPU only"
    if dtype not in (GPU_DTYPES if triton else CPU_DTYPES):
        return f"the passes do not take {dtype} there"
    return None if triton else cpu_reason()


def _unsupported_map(x: Tensor) -> str | None:
    if type(x) not in (Tensor, torch.nn.Parameter, FakeTensor):
        return f"maps are {type(x).__name__}s, and the passes take plain tensors"
    if not runs_triton(x) and not channels_last(x):
        return "maps on the CPU are not channels-last"
    return unavailable(x.device, x.dtype)


@torch.compiler.assume_constant_result
def cpu_reason() -> str | None:
    """Why nothing can be compiled for this CPU, if so; a graph being traced sees nothing of the compiler."""
    return compiler.obstacle()
