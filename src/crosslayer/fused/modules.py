"""Which modules an executor may stand in for: those as they were built, that nobody listens to."""

from collections.abc import Iterable
from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules import module as nn_module

from crosslayer.fused.batch_norm import BatchNorm

_GLOBAL_HOOKS = (
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
)
_PLAIN = (nn.Parameter, Tensor, FakeTensor)


def altered(module: nn.Module, kind: type[nn.Module]) -> str | None:
    """Why a module cannot be stood in for, if so: it is of another class, is hooked, or is reparametrised."""
    name, own = type(module).__name__, module.__dict__  # asked several times a block: no detour by getattr
    if type(module) is not kind:
        return f"a {kind.__name__} has been exchanged for a {name}"
    if "forward" in own:
        return f"the forward of a {name} has been exchanged"
    if own["_forward_pre_hooks"] or own["_forward_hooks"] or own["_backward_pre_hooks"] or own["_backward_hooks"]:
        return f"a {name} has hooks"
    for parameter in own["_parameters"].values():
        if parameter is not None and type(parameter) not in _PLAIN:
            return f"a {name} has parameters of a class of their own"
    return None


def unwatched(blocks: Iterable[nn.Module]) -> bool:
    """Whether blocks are there, and no hook in them that could change what one hands to the next in place."""
    modules = [module for block in blocks for module in block.modules()]
    return bool(modules) and not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def hooked_everywhere() -> str | None:
    """Whether hooks are set for all modules of the process."""
    return "hooks are set for all modules" if any(getattr(nn_module, name) for name in _GLOBAL_HOOKS) else None


def norm_obstacle(norm: nn.Module) -> str | None:
    """Why a batch normalisation cannot be fused, if so."""
    if reason := altered(norm, nn.BatchNorm2d):
        return reason
    assert isinstance(norm, nn.BatchNorm2d)
    if not norm.track_running_stats:
        return "a BatchNorm2d keeps no running statistics"
    return "a BatchNorm2d has momentum=None" if norm.momentum is None else None


def batch_norm_of(norm: nn.Module) -> BatchNorm:
    """A module's normalisation; in training, one batch more has been seen."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    statistics = (norm.running_mean, norm.running_var)
    return BatchNorm(norm.weight, norm.bias, *statistics, norm.training, norm.momentum, norm.eps)


def depthwise_obstacle(value: nn.Module) -> str | None:
    """Why a depth-wise 3×3 convolution cannot be fused, if so."""
    if reason := altered(value, nn.Conv2d):
        return reason
    assert isinstance(value, nn.Conv2d)
    built = (
        value.bias is None
        and value.groups == value.in_channels == value.out_channels
        and value.kernel_size == (3, 3)
        and value.stride == value.dilation == value.padding == (1, 1)
        and value.padding_mode == "zeros"
    )
    return None if built else "the value's convolution is no depth-wise 3×3 one"


def branch_obstacle(branch: nn.Module, *kinds: type[nn.Module]) -> str | None:
    """Why a branch that was built as a sequence of these cannot be fused, if so."""
    if reason := altered(branch, nn.Sequential):
        return reason
    parts = list(branch.children())
    if len(parts) != len(kinds):
        return "a branch has been made longer or shorter"
    for part, kind in zip(parts, kinds, strict=True):
        if reason := norm_obstacle(part) if kind is nn.BatchNorm2d else altered(part, kind):
            return reason
    return None


def keep_factors(drop: nn.Module, x: Tensor) -> Tensor | None:
    """What the dropping of paths multiplies each image's branch with, if any may be dropped: batch × 1 × 1 × 1."""
    assert isinstance(drop, DropPath)
    return drop(x.new_ones(x.shape[0], 1, 1, 1)) if drop.training and drop.drop_prob > 0 else None


def squeeze_weights(net: Any) -> list[Tensor] | None:
    """The four weights of a squeeze net as it was built, if it is one."""
    if altered(net, nn.Sequential) or len(net) != 3:
        return None
    first, relu, last = net
    if altered(first, nn.Linear) or altered(relu, nn.ReLU) or altered(last, nn.Linear):
        return None
    return [first.weight, first.bias, last.weight, last.bias]


def converted_by_autocast(x: Tensor) -> bool:
    """Whether a convolution would convert x first."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return False
    return torch.get_autocast_dtype(kind) != x.dtype
