"""The end of a residual block with its value, against the float64 reference, forward and every gradient."""

import pytest
import torch
from torch import Tensor

from crosslayer.fused.batch_norm import BatchNorm
from crosslayer.fused.residual_value import autograd as fused
from crosslayer.fused.residual_value import residual_value
from tests.fused import test_residual_output
from tests.fused.maps import LAYOUTS, SIZES, TOLERANCE, check_fused, laid_out, noise, skip_untaken
from tests.fused.reference import ops_of
from tests.fused.test_residual_output import BLOCKS

pytestmark = [pytest.mark.sampled(5), pytest.mark.usefixtures("poisoned")]


def case(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """What ends a block, a kernel, and the gradients that come in to the value."""
    draw = noise(1)
    value = {"k": draw(shape[1], 1, 3, 3), "of_value": draw(*shape)}
    return test_residual_output.case(shape) | value


def normalisation(leaf: dict[str, Tensor], training: bool) -> BatchNorm:
    """With the leaf's own running statistics."""
    return BatchNorm(leaf["w"], leaf["b"], leaf["mean"], leaf["var"], training, 0.1, 1e-5)


def run(impl: str, given: dict[str, Tensor], training: bool) -> dict[str, Tensor]:
    """Output, value, their pools, the gradients of everything, and the running statistics that are left behind."""
    leaf = {name: one.detach().clone(memory_format=torch.preserve_format) for name, one in given.items()}
    wanted = [leaf[name].requires_grad_() for name in "xswbk"]
    *made, value_pool = ops_of(impl).residual_value(leaf["x"], leaf["s"], normalisation(leaf, training), leaf["k"])
    assert not value_pool.requires_grad
    made = dict(zip(("out", "pool", "value"), made, strict=True))
    incoming = [leaf[name] for name in ("incoming", "of_pool", "of_value")]
    incoming = [one.to(of.dtype) for one, of in zip(incoming, made.values(), strict=True)]
    gradients = torch.autograd.grad(list(made.values()), wanted, incoming)
    found = made | {"value_pool": value_pool, "mean": leaf["mean"], "var": leaf["var"]}
    return found | {f"d{name}": one for name, one in zip("xswbk", gradients, strict=True)}


def check(device: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str, training: bool) -> None:
    maps = ("x", "s", "incoming", "of_value")
    found = check_fused(lambda impl, given: run(impl, given, training), case(shape), maps, device, dtype, layout)
    assert found["out"].dtype == found["value"].dtype == dtype


@pytest.mark.parametrize("shape", SIZES + BLOCKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_size_and_layout(device: str, shape: tuple[int, ...], layout: str):
    check(device, shape, torch.float64, layout, training=shape[0] * shape[2] * shape[3] > 1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("training", [True, False])
def test_every_precision_and_mode(device: str, dtype: torch.dtype, training: bool):
    skip_untaken(dtype, device)
    check(device, (2, 32, 3, 4), dtype, "channels_last", training)


@pytest.mark.parametrize("training", [True, False])
def test_empty_batch(device: str, training: bool):
    check(device, (0, 6, 5, 4), torch.float32, "channels_last", training)


def test_a_single_value_has_no_variance(device: str):
    given = {name: one.float().to(device) for name, one in case((1, 6, 1, 1)).items()}
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        run("fused", given, True)


def test_what_is_no_number_is_not_hidden(device: str):
    given = {name: one.float().to(device) for name, one in case((2, 6, 5, 4)).items()}
    given["x"][0, 0, 2, 2] = torch.nan
    found, expected = run("fused", given, False), run("reference", given, False)
    assert found["value"].isnan().sum() == 9
    for name in ("out", "pool", "value_pool", "ds", "dk"):
        assert torch.equal(found[name].isnan(), expected[name].isnan()), name


def test_the_output_is_not_kept(device: str):
    given = {name: one.float().to(device) for name, one in case((2, 6, 5, 4)).items()}
    x, shortcut = given["x"].requires_grad_(), given["s"].requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda saved: saved):
        residual_value(x, shortcut, normalisation(given, True), given["k"])
    maps = {saved.data_ptr() for saved in kept if saved is not None and saved.shape == x.shape}
    assert maps == {x.data_ptr(), shortcut.data_ptr()}


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
def test_ops_are_well_registered(layout: str):
    given = {name: one.float() for name, one in case((2, 6, 2, 2)).items()}
    maps = {name: laid_out(given[name], layout) for name in ("x", "s", "incoming", "of_value")}
    rows, tail = [given[name] for name in ("w", "b", "mean", "var")], (1e-5, True)
    incoming = (maps["incoming"], given["of_pool"], maps["of_value"])
    torch.library.opcheck(fused.residual_value_backward, (*incoming, maps["x"], maps["s"], *rows, given["k"], *tail))
    leaves = [one.detach().requires_grad_() for one in (maps["x"], maps["s"], *rows[:2])]
    torch.library.opcheck(fused.residual_value, (*leaves, *rows[2:], given["k"].requires_grad_(), *tail))
