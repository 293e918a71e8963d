"""The history sum of the B forms with what follows it on maps: normalisation, ReLU, the addition to the output."""

from crosslayer.ops.fused import history_sum_norm as fused
from crosslayer.ops.fused.backends import runs_triton
from crosslayer.ops.fused.claims import Claims
from crosslayer.ops.fused.layout import accumulator
from crosslayer.ops.history import StoredValue, claims_of, history_sum, layer_factors
from crosslayer.ops.normalisation import Keep, Normalisation, batch_norm, batch_statistics
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
    branch = batch_norm(history_sum(values, weights, scales), norm).relu_()
    return x + (branch if keep is None else branch * keep)


def fused_form(
    x: Map, values: list[StoredValue], factors: History, claims: Claims, norm: Normalisation, keep: Keep | None
) -> Map:
    """In one pass over the maps, or with the batch's statistics in two."""
    maps, factors = [value.of.detach() for value in values], factors.to(accumulator(x))
    mean, variance = norm.running_mean, norm.running_var
    if norm.training:
        mean, variance = batch_statistics(x, norm, lambda: fused.statistics(maps, factors.detach()))
    images = None if keep is None else keep.flatten()
    rows = (norm.weight, norm.bias, mean, variance, images)
    return fused.normalise(x, maps, factors, *claims, *rows, norm.epsilon, norm.training)
