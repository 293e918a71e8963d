"""The history sum normalised, rectified and added, against the float64 reference, forward and every gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor

from crosslayer.fused.batch_norm import BatchNorm
from crosslayer.fused.history_sum import history_sum_norm, store
from crosslayer.fused.history_sum import sum_norm as fused
from tests.fused.maps import LAYOUTS, SIZES, TOLERANCE, assert_close, laid_out, noise, skip_untaken
from tests.fused.reference import ops_of
from tests.fused.test_history_sum import stored

pytestmark = [pytest.mark.sampled(5), pytest.mark.usefixtures("native", "poisoned")]

FEW = [(2, 6, 5, 7), (3, 70, 2, 1), (2, 64, 3, 3)]
"""Tiles that are not full, blocks that are not, and both that are."""


def case(shape: tuple[int, ...], layers: int) -> dict[str, Tensor]:
    """Maps, weights, scales, the affine map, running statistics, keep factors (one image dropped)."""
    draw = noise()
    batch, channels = shape[:2]
    maps = {f"V{m}": 2 + draw(*shape) for m in range(layers)}
    keep = torch.full((batch, 1, 1, 1), 1.25, dtype=torch.float64)
    keep[:1] = 0
    rows = {
        "w": 1 + draw(channels) / 4,
        "b": draw(channels) / 2,
        "mean": draw(channels),
        "var": draw(channels) ** 2 + 1,
    }
    sums = {"f": draw(batch, layers, channels)}
    return {"x": draw(*shape)} | maps | sums | rows | {"keep": keep, "incoming": draw(*shape)}


def run(impl: str, given: dict[str, Tensor], training: bool, keep: bool) -> dict[str, Tensor]:
    """The output, the gradients of everything, and the running statistics it leaves behind."""
    leaf = {name: one.detach().clone(memory_format=torch.preserve_format) for name, one in given.items()}
    wanted = [name for name in leaf if name[0] in "xVf" or name in ("w", "b")]
    for name in wanted:
        leaf[name].requires_grad_()
    norm = BatchNorm(leaf["w"], leaf["b"], leaf["mean"], leaf["var"], training, 0.1, 1e-5)
    values = stored(impl, [one for name, one in leaf.items() if name[0] == "V"])
    out = ops_of(impl).history_sum_norm(leaf["x"], values, leaf["f"], norm, leaf["keep"] if keep else None)
    gradients = torch.autograd.grad(out, [leaf[name] for name in wanted], leaf["incoming"])
    found = {"out": out, "mean": leaf["mean"], "var": leaf["var"]}
    return found | {f"d{name}": one for name, one in zip(wanted, gradients, strict=True)}


def check(
    shape: tuple[int, ...], layers: int, dtype: torch.dtype, layout: str, training: bool, keep: bool = True
) -> None:
    given = case(shape, layers)
    narrow = dtype if dtype == torch.float64 else torch.float32
    maps = {name for name, one in given.items() if one.dim() == 4 and name != "keep"}
    given = {name: one.to(dtype) if name in maps else one for name, one in given.items()}
    expected = run("reference", {name: one.double() for name, one in given.items()}, training, keep)
    moved = {name: laid_out(one, layout) if name in maps else one.to(narrow) for name, one in given.items()}
    found = run("fused", moved, training, keep)
    assert found["out"].dtype == dtype
    assert found["out"].stride() == laid_out(given["x"], "contiguous" if layout == "sliced" else layout).stride()
    for name, one in found.items():
        assert_close(one, expected[name], dtype, name)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [*SIZES[:1], *SIZES[2:], *FEW[1:]])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_size_and_layout(shape: tuple[int, ...], layout: str, training: bool):
    check(shape, 3, torch.float64, layout, training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layers", [1, 5])
def test_every_precision_and_depth(dtype: torch.dtype, layers: int, training: bool):
    skip_untaken(dtype, "cpu")
    check((4, 64, 6, 7), layers, dtype, "channels_last", training)


def test_no_path_is_dropped():
    check((2, 6, 5, 7), 2, torch.float64, "channels_last", training=True, keep=False)


@pytest.mark.usefixtures("native")
def test_a_mean_far_from_zero_costs_no_digits():
    values = [(1000 + noise(m)(4, 16, 6, 6)).float() for m in range(2)]
    factors = torch.full((4, 2, 16), 0.5)
    mean, variance = fused.statistics(values, factors)
    exact = sum(0.5 * value.double() for value in values)
    assert isinstance(exact, Tensor)
    torch.testing.assert_close(mean.double(), exact.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), exact.var((0, 2, 3), correction=0), rtol=1e-3, atol=0)


def test_empty_batch():
    check((0, 6, 5, 7), 2, torch.float32, "contiguous", training=True)


def test_a_single_value_per_channel_is_skip_untaken():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        check((1, 70, 1, 1), 2, torch.float32, "channels_last", training=True)


@pytest.mark.usefixtures("native")
def test_only_the_values_are_kept():
    given = {name: one.requires_grad_() for name, one in case((2, 6, 5, 7), 4).items() if name not in ("mean", "var")}
    values = [one for name, one in given.items() if name[0] == "V"]
    norm = BatchNorm(given["w"], given["b"], torch.zeros(6), torch.ones(6), True, 0.1, 1e-5)
    kept: dict[int, int] = {}

    def keep(one: Tensor) -> Tensor:
        kept[one.data_ptr()] = one.numel()
        return one

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        history_sum_norm(given["x"], stored("fused", values), given["f"], norm)
    maps = {address for address, size in kept.items() if size == given["x"].numel()}
    assert maps == {one.data_ptr() for one in values}


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
def test_ops_are_well_registered(layout: str, own: bool):
    given: dict[str, Any] = case((2, 3, 2, 2), 2)
    given = {name: laid_out(one, layout) if one.dim() == 4 else one for name, one in given.items()}
    values, scales = [given["V0"], given["V1"]], given["f"]
    pairs = [store(value, None, 1).slots for value in values]
    shares, factors = ([pair[0][i].detach().requires_grad_() for pair in pairs if pair] for i in (0, 1))
    statistics, keep = (given["mean"], given["var"]), given["keep"].flatten()
    affine = [given[name].requires_grad_() for name in "wb"]
    x, wanted = given["x"].requires_grad_(), scales.clone().requires_grad_()
    torch.library.opcheck(
        fused.normalise, (x, values, wanted, [0, 1], shares, factors, *affine, *statistics, keep, 1e-5, own)
    )
    rows = (*(one.detach() for one in affine), *statistics, keep, 1e-5, own)
    torch.library.opcheck(fused.normalise_backward, (given["incoming"], values, scales, *rows))
    torch.library.opcheck(fused.statistics, (values, scales))
