"""What goes into the passes of `light_merge`, and what comes out."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from crosslayer.fused.batch_norm import Norm
from crosslayer.fused.layout import taps_of


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
