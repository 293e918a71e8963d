"""Attention over stored layers (MRLA-B, DLA-B): the sum of their values, alone or with what follows it on maps."""

from jaxtyping import Float
from torch import Tensor

from crosslayer.fused.batch_norm import BatchNorm, Keep, batch_stats
from crosslayer.fused.history_sum import sum_norm
from crosslayer.fused.history_sum.grad_slots import GradSlot, Stored, store, taken
from crosslayer.fused.history_sum.sum import weighted_sum
from crosslayer.fused.layout import accumulator
from crosslayer.fused.support import runs_triton
from crosslayer.ops.shapes import Map

__all__ = ["GradSlot", "Stored", "history_sum", "history_sum_norm", "store"]

Factors = Float[Tensor, "batch layers channels"]
"""What each stored layer's channels are multiplied with: attention, times the product of gates."""


def history_sum(values: list[Stored], factors: Factors) -> Map:
    """Σ_m f_m ⊙ V_m.

    Args:
        values: one for each stored layer, in the order they were stored; the last is the block's own. The gradient of
            those without slots is a map for each reader, that of the others is made once.
        factors: f_m.

    Only the inputs are kept for the backward pass, so that memory grows linearly with the number of layers.

    Raises:
        ValueError: a value has fewer slots than layers were stored from it on.
    """
    maps, slotted, *slots = taken(values)
    return weighted_sum(maps, factors.to(accumulator(maps[0])), slotted, *slots)


def history_sum_norm(x: Map, values: list[Stored], factors: Factors, norm: BatchNorm, keep: Keep | None = None) -> Map:
    """x + keep ⊙ ReLU(BN(Σ_m f_m ⊙ V_m)), with x in the values' dtype; on a CPU only.

    Args:
        x: the block's output.
        values: as in `history_sum`.
        factors: f_m.
        norm: BN.
        keep: DropPath's factor for each image.

    Raises:
        ValueError: statistics of a single value per channel are asked for, or as in `history_sum`; or Triton's passes
            are meant, which there are none of: `history_sum` is fused there, and what follows is PyTorch's.
    """
    if runs_triton(x):
        raise ValueError("history_sum_norm has passes for the CPU only; use history_sum on a GPU")
    maps, slotted, *slots = taken(values)
    factors = factors.to(accumulator(x))
    if norm.training:
        detached = [map_.detach() for map_ in maps]
        mean, variance = batch_stats(x, norm, lambda: sum_norm.statistics(detached, factors.detach()))
    else:
        mean, variance = norm.known_stats()
    rows = (*norm.affine(), mean, variance, None if keep is None else keep.flatten())
    return sum_norm.normalise(x, maps, factors, slotted, *slots, *rows, norm.epsilon, norm.training)
