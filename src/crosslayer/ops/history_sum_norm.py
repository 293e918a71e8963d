"""The history sum of the B forms with what follows it on maps: normalisation, ReLU, the addition to the output."""

import torch
import torch.nn.functional as F
from torch import Tensor

from crosslayer.ops.fused import history_sum_norm as fused
from crosslayer.ops.fused.backends import runs_triton
from crosslayer.ops.fused.claims import Claims
from crosslayer.ops.fused.layout import accumulator
from crosslayer.ops.history import StoredValue, claims_of, history_sum, layer_factors
from crosslayer.ops.normalisation import Keep, Normalisation, check_count, move_running
from crosslayer.ops.shapes import HeadWeights, History, Map


def history_sum_norm(
    x: Map,
    values: list[StoredValue],
    weights: HeadWeights,
    scales: History | None,
    norm: Normalisation,
    keep: Keep | None = None,
) -> Map:
    """x + keep ⊙ ReLU(BN(Σ_m (a_m · G_m) ⊙ V_m)); see `history_sum` for its terms.

    On a GPU the sum alone is fused, as there it reads no map twice.

    Raises:
        ValueError: statistics of a single value per channel are asked for.
    """
    claims = claims_of(values)
    if claims is None or runs_triton(x) or x.dtype != values[0].of.dtype:
        return reference(x, values, weights, scales, norm, keep)
    return fused_form(x, values, layer_factors(values, weights, scales), claims, norm, keep)


def reference(
    x: Map,
    values: list[StoredValue],
    weights: HeadWeights,
    scales: History | None,
    norm: Normalisation,
    keep: Keep | None,
) -> Map:
    """In plain PyTorch, but for the sum."""
    attended = history_sum(values, weights, scales)
    statistics = (norm.running_mean, norm.running_var)
    affine = (norm.weight, norm.bias)
    branch = F.batch_norm(attended, *statistics, *affine, norm.training, norm.momentum, norm.epsilon).relu_()
    return x + (branch if keep is None else branch * keep)


def fused_form(
    x: Map, values: list[StoredValue], factors: History, claims: Claims, norm: Normalisation, keep: Keep | None
) -> Map:
    """In one pass over the maps, or with the batch's statistics in two."""
    maps, factors = [value.of.detach() for value in values], factors.to(accumulator(x))
    mean, variance = batch_statistics(maps, factors, norm) if norm.training else (norm.running_mean, norm.running_var)
    images = None if keep is None else keep.flatten()
    rows = (norm.weight, norm.bias, mean, variance, images)
    return fused.normalise(x, maps, factors, *claims, *rows, norm.epsilon, norm.training)


def batch_statistics(maps: list[Tensor], factors: Tensor, norm: Normalisation) -> tuple[Tensor, Tensor]:
    """The sum's mean and variance in every channel; moves the running ones as `batch_norm` does.

    Raises:
        ValueError: there is one value per channel only.
    """
    check_count(maps[0])
    with torch.no_grad():
        mean, variance = fused.statistics(maps, factors.detach())
        move_running(norm, mean, variance, maps[0])
    return mean, variance
