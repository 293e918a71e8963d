"""What goes into the passes of `light_merge_norm`, and what comes out."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from crosslayer.ops.fused.layout import exact


class Terms(NamedTuple):
    """What z = G ⊙ DW(x; K) + a ⊙ s + DW(s; K_s) is made of; gate and scale are batch × channels."""

    x: Tensor
    shortcut: Tensor
    value_kernel: Tensor
    gate: Tensor
    scale: Tensor
    shortcut_kernel: Tensor | None

    def changed(self, x: Tensor, shortcut: Tensor, small: Callable[[Tensor], Tensor]) -> "Terms":
        """Other maps, and everything else changed alike."""
        carried = None if self.shortcut_kernel is None else small(self.shortcut_kernel)
        return Terms(x, shortcut, small(self.value_kernel), small(self.gate), small(self.scale), carried)


class Norm(NamedTuple):
    """A normalisation's affine map and statistics, and each image's keep factor, in the precision of the arithmetic."""

    weight: Tensor
    bias: Tensor | None
    """Not needed backward."""
    mean: Tensor
    variance: Tensor
    keep: Tensor | None
    epsilon: float

    def exact(self, x: Tensor) -> "Norm":
        """In the precision of the arithmetic on maps like x."""
        bias, keep = (None if one is None else exact(one, x) for one in (self.bias, self.keep))
        weight, mean, variance = (exact(one, x) for one in (self.weight, self.mean, self.variance))
        return Norm(weight, bias, mean, variance, keep, self.epsilon)

    @property
    def inverse(self) -> Tensor:
        """1 / √(σ² + ε)."""
        return (self.variance + self.epsilon).rsqrt()

    def kept(self, rows: Tensor) -> Tensor:
        """Every image's row (batch × channels) times its keep factor."""
        return rows if self.keep is None else self.keep.view(-1, 1) * rows

    def affine_gradients(self, plain: Tensor, weighted: Tensor) -> tuple[Tensor, Tensor]:
        """Of weight and bias, from each image's Σ g and Σ g (z - μ), with g the gradient of what is normalised."""
        return self.kept(weighted).sum(0) * self.inverse, self.kept(plain).sum(0)


def norm_of(rows: list[Tensor], epsilon: float, x: Tensor) -> Norm:
    """Of weight, bias, mean and variance, every image kept, in the precision of the arithmetic on maps like x."""
    weight, bias, mean, variance = rows
    return Norm(weight, bias, mean, variance, None, epsilon).exact(x)


def through_statistics(affine: tuple[Tensor, Tensor], own: bool) -> tuple[Tensor, Tensor]:
    """The gradients of weight and bias as far as they pass through the statistics: in full where these are own."""
    of_weight, of_bias = affine
    return affine if own else (torch.zeros_like(of_weight), torch.zeros_like(of_bias))


class Incoming(NamedTuple):
    """The gradient that comes in: of the output's map, and what its pool's adds to every position."""

    map: Tensor
    everywhere: Tensor
    """Batch × channels, one row after the other, in the precision of the arithmetic."""


class Ended(NamedTuple):
    """The normalisation of a block's output ReLU(BN(x) + s), and memory for the sums that its claims receive."""

    norm: Norm
    sums: Tensor


class Sums(NamedTuple):
    """Sums over the map of dz (or, statistics known beforehand, of dout) for each image and channel."""

    plain: Tensor
    of_value: Tensor
    """Times x shifted by each of the nine taps: batch × taps × channels."""
    of_shortcut: Tensor
    """Likewise of s; the centre tap only where the shortcut has no kernel."""

    @property
    def centre(self) -> Tensor:
        """Σ_hw dz ⊙ s."""
        return self.of_shortcut[:, self.of_shortcut.shape[1] // 2]

    def weighed_value(self, terms: Terms) -> Tensor:
        """Σ_hw dz ⊙ DW(x; K)."""
        return (taps_of(terms.value_kernel) * self.of_value).sum(1)

    def times(self, factor: Tensor) -> "Sums":
        """All multiplied with batch × channels factors."""
        return Sums(factor * self.plain, factor[:, None] * self.of_value, factor[:, None] * self.of_shortcut)


def taps_of(kernel: Tensor) -> Tensor:
    """A depth-wise kernel as taps × channels."""
    return kernel.flatten(1).T


def kernel_of(taps: Tensor) -> Tensor:
    """The inverse."""
    side = 3 if taps.shape[0] == 9 else 1
    return taps.T.reshape(-1, 1, side, side)
