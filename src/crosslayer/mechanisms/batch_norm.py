"""Modules of batch normalisation as the ops take them."""

from torch import nn
from typing_extensions import TypeIs

from crosslayer.ops import Normalisation


def plain_norm(norm: nn.Module) -> TypeIs[nn.BatchNorm2d]:
    """Whether a normalisation is the one blocks and branches are built with, and keeps running means."""
    return type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats and norm.momentum is not None


def counted(norm: nn.BatchNorm2d) -> Normalisation:
    """A module's normalisation as the op takes it; in training, one batch more has been seen."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    statistics = (norm.running_mean, norm.running_var)
    return Normalisation(norm.weight, norm.bias, *statistics, norm.training, norm.momentum, norm.eps)
