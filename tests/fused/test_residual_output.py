"""The end of a residual block in few passes, against the float64 reference, forward and every gradient."""

import pytest
import torch
from torch import Tensor

from crosslayer.fused.batch_norm import BatchNorm
from crosslayer.fused.residual_output import autograd as fused
from crosslayer.fused.residual_output import residual_output
from tests.fused.maps import LAYOUTS, SIZES, TOLERANCE, check_fused, laid_out, noise, skip_untaken
from tests.fused.reference import ops_of

pytestmark = [pytest.mark.sampled(5), pytest.mark.usefixtures("poisoned")]

BLOCKS = [(3, 70, 2, 1), (2, 64, 3, 3)]
"""Tiles and blocks of channels that are not full, and that are."""


def case(shape: tuple[int, ...], offset: float = 0.0) -> dict[str, Tensor]:
    """Maps, the affine map, running statistics, and the gradients that come in."""
    draw, channels = noise(), shape[1]
    maps = {"x": offset + draw(*shape), "s": draw(*shape), "incoming": draw(*shape)}
    affine = {"w": 1 + draw(channels) / 4, "b": draw(channels) / 2}
    running = {"mean": offset + draw(channels), "var": draw(channels) ** 2 + 1}
    return maps | affine | running | {"of_pool": draw(*shape[:2]), "of_shortcut_pool": draw(*shape[:2])}


def run(impl: str, given: dict[str, Tensor], training: bool, pooled: bool = True) -> dict[str, Tensor]:
    """The output, its pool, the gradients of everything, and the running statistics it leaves behind."""
    leaf = {name: one.detach().clone(memory_format=torch.preserve_format) for name, one in given.items()}
    wanted = [leaf[name].requires_grad_() for name in "xswb"]
    norm = BatchNorm(leaf["w"], leaf["b"], leaf["mean"], leaf["var"], training, 0.1, 1e-5)
    known = leaf["s"].detach().mean((2, 3)) if pooled else None
    out, pool, of_shortcut, _ = ops_of(impl).residual_output(leaf["x"], leaf["s"], norm, known)
    made = {"out": (out, leaf["incoming"]), "pool": (pool, leaf["of_pool"].to(pool.dtype))}
    if pooled:
        made["shortcut_pool"] = (of_shortcut, leaf["of_shortcut_pool"].to(pool.dtype))
    gradients = torch.autograd.grad([one for one, _ in made.values()], wanted, [one for _, one in made.values()])
    found = {name: one for name, (one, _) in made.items()} | {"mean": leaf["mean"], "var": leaf["var"]}
    return found | {f"d{name}": one for name, one in zip("xswb", gradients, strict=True)}


def check(device: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str, training: bool) -> None:
    maps = ("x", "s", "incoming")
    found = check_fused(lambda impl, given: run(impl, given, training), case(shape), maps, device, dtype, layout)
    assert found["out"].dtype == dtype


@pytest.mark.parametrize("shape", SIZES + BLOCKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_size_and_layout(device: str, shape: tuple[int, ...], layout: str):
    check(device, shape, torch.float64, layout, training=shape[0] * shape[2] * shape[3] > 1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("training", [True, False])
def test_every_precision_and_mode(device: str, dtype: torch.dtype, training: bool):
    skip_untaken(dtype, device)
    check(device, (2, 6, 3, 4), dtype, "channels_last", training)


@pytest.mark.parametrize("training", [True, False])
def test_empty_batch(device: str, training: bool):
    check(device, (0, 6, 5, 4), torch.float32, "channels_last", training)


def test_variance_far_from_zero_keeps_its_digits(device: str):
    given = {name: one.float() for name, one in case((2, 6, 5, 4), offset=3000.0).items()}
    expected = run("reference", {name: one.double() for name, one in given.items()}, True)
    found = run("fused", {name: one.to(device) for name, one in given.items()}, True)
    torch.testing.assert_close(found["var"].double().cpu(), expected["var"], rtol=1e-4, atol=0)


def test_a_single_value_has_no_variance(device: str):
    given = {name: one.float().to(device) for name, one in case((1, 6, 1, 1)).items()}
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        run("fused", given, True)


def test_what_is_no_number_is_not_hidden(device: str):
    given = {name: one.float().to(device) for name, one in case((2, 6, 5, 4)).items()}
    given["x"][0, 0, 2, 2] = torch.nan
    found, expected = run("fused", given, False), run("reference", given, False)
    assert found["out"].isnan().sum() == expected["out"].isnan().sum() == 1
    assert found["pool"].isnan().sum() == expected["pool"].isnan().sum() == 1
    assert torch.equal(found["ds"].isnan(), expected["ds"].isnan())


def test_the_output_is_not_kept(device: str):
    given = {name: one.float().to(device) for name, one in case((2, 6, 5, 4)).items()}
    x, shortcut = given["x"].requires_grad_(), given["s"].requires_grad_()
    kept: list[Tensor] = []
    norm = BatchNorm(given["w"], given["b"], given["mean"], given["var"], True, 0.1, 1e-5)
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda saved: saved):
        residual_output(x, shortcut, norm)
    maps = {saved.data_ptr() for saved in kept if saved is not None and saved.shape == x.shape}
    assert maps == {x.data_ptr(), shortcut.data_ptr()}


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
def test_ops_are_well_registered(layout: str):
    given = {name: one.float() for name, one in case((2, 6, 2, 2)).items()}
    x, shortcut, incoming = (laid_out(given[name], layout) for name in ("x", "s", "incoming"))
    rows, tail = [given[name] for name in ("w", "b", "mean", "var")], (1e-5, True)
    above = torch.rand(2, 2, 6)
    torch.library.opcheck(fused.statistics, (x,))
    for known in ((None, None, None), (given["of_pool"], torch.rand(2, 2, 6), incoming)):
        backward = (incoming, given["of_pool"], *known, x, shortcut, *rows, above, *tail)
        torch.library.opcheck(fused.residual_output_backward, backward)
    leaves = [one.detach().requires_grad_() for one in (x, shortcut, *rows[:2])]
    for known_pool in (None, given["of_pool"]):
        torch.library.opcheck(fused.residual_output, (*leaves, *rows[2:], known_pool, *tail))
