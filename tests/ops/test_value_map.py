"""The B forms' value in one pass each way, against the float64 reference, forward and every gradient."""

import copy

import pytest
import torch
from torch import Tensor, nn

from crosslayer.mechanisms.query_key_value import QueryKeyValue
from crosslayer.ops import implementation, pool_of, selection, value_map
from crosslayer.ops.fused import value_map as fused
from tests.ops.maps import LAYOUTS, SIZES, TOLERANCE, assert_close, laid_out, noise, refused

pytestmark = pytest.mark.usefixtures("poisoned")

BLOCKS = [(3, 70, 3, 2), (2, 64, 4, 3), (1, 16, 2, 5)]
"""Blocks of channels that are not full, and that are."""


def case(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """A map, a kernel, and the gradients that come in."""
    draw, channels = noise(), shape[1]
    return {"x": draw(*shape), "k": draw(channels, 1, 3, 3), "incoming": draw(*shape), "of_pool": draw(*shape[:2])}


def run(impl: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The value, its pool, and the gradients of map and kernel."""
    leaves = [given[name].detach().requires_grad_() for name in "xk"]
    with implementation(impl):
        made = value_map(*leaves)
        pool = pool_of(made.of, made)
    incoming = [given["incoming"].to(made.of.dtype), given["of_pool"].to(pool.dtype)]
    dx, dk = torch.autograd.grad([made.of, pool], leaves, incoming)
    return {"value": made.of, "pool": pool, "dx": dx, "dk": dk}


def check(device: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    rounded = {name: one.to(dtype) for name, one in case(shape).items()}
    expected = run("reference", {name: one.double() for name, one in rounded.items()})
    maps = {name: laid_out(rounded[name].to(device), layout) for name in ("x", "incoming")}
    found = run("fused", {name: one.to(device) for name, one in rounded.items()} | maps)
    for name, one in found.items():
        assert one.dtype == dtype
        assert_close(one, expected[name], dtype, name)


@pytest.mark.parametrize("shape", SIZES + BLOCKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_size_and_layout(device: str, shape: tuple[int, ...], layout: str):
    check(device, shape, torch.float64, layout)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (2, 32, 4, 5)])
def test_every_precision(device: str, shape: tuple[int, ...], dtype: torch.dtype):
    with refused(dtype, device):
        check(device, shape, dtype, "channels_last")


def test_empty_batch(device: str):
    check(device, (0, 6, 5, 4), torch.float32, "channels_last")


def test_gradients_without_a_pools_and_with_it_alone(device: str):
    given = {name: one.to(device) for name, one in case((2, 6, 4, 5)).items()}
    for silent in ("of_pool", "incoming"):
        left = given | {silent: torch.zeros_like(given[silent])}
        expected = run("reference", left)
        leaves = [given[name].detach().requires_grad_() for name in "xk"]
        with implementation("fused"):
            made = value_map(*leaves)
            made = (made.of, given["incoming"]) if silent == "of_pool" else (pool_of(made.of, made), given["of_pool"])
        dx, dk = torch.autograd.grad(made[0], leaves, made[1])
        assert_close(dx, expected["dx"].cpu(), torch.float64, "dx")
        assert_close(dk, expected["dk"].cpu(), torch.float64, "dk")


def test_what_is_no_number_stays_where_it_reaches(device: str):
    given = {
        name: laid_out(one.float().to(device), "channels_last")
        for name, one in case((2, 6, 5, 4)).items()
        if one.dim() == 4
    }
    given["x"][0, 0, 2, 2] = torch.nan
    with implementation("fused"), torch.no_grad():
        made = value_map(given["x"], given["k"])
    assert made.of.isnan().sum() == 9
    assert pool_of(made.of, made).isnan().sum() == 1


def test_only_the_map_is_kept(device: str):
    given = {name: one.to(device) for name, one in case((2, 6, 5, 4)).items()}
    x, kernel = (given[name].requires_grad_() for name in "xk")
    kept: list[Tensor] = []
    with implementation("fused"), torch.autograd.graph.saved_tensors_hooks(kept.append, lambda saved: saved):
        value_map(x, kernel)
    assert {saved.data_ptr() for saved in kept if saved.shape == x.shape} == {x.data_ptr()}


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_autocast_makes_the_dtype_that_pytorch_makes(device: str, dtype: torch.dtype, autocast: torch.dtype | None):
    given = case((2, 6, 5, 4))
    x = laid_out(given["x"].to(device, dtype), "channels_last")
    kernel = given["k"].to(device, torch.float64 if dtype == torch.float64 else torch.float32)
    if autocast is None:
        kernel = kernel.to(dtype)
    made = {}
    with torch.no_grad(), torch.autocast(device, autocast or torch.bfloat16, enabled=autocast is not None):
        for impl in ("reference", "fused"):
            with implementation(impl):
                made[impl] = value_map(x, kernel).of
    assert made["fused"].dtype == made["reference"].dtype
    precision = max(TOLERANCE[made["reference"].dtype], 5e-5)
    torch.testing.assert_close(made["fused"], made["reference"], rtol=precision, atol=3 * precision)


def test_dtypes_that_pytorch_refuses_together_are_refused(device: str):
    given = case((2, 6, 5, 4))
    x = laid_out(given["x"].to(device, torch.bfloat16), "channels_last")
    with implementation("auto"), pytest.raises(RuntimeError, match="type"):
        value_map(x, given["k"].to(device, torch.float32))


def test_kernels_of_another_size_are_pytorchs():
    draw = noise()
    x, kernel = laid_out(draw(2, 6, 5, 4), "channels_last"), draw(6, 1, 5, 5)
    expected = nn.functional.conv2d(x, kernel, padding=2, groups=6)
    torch.testing.assert_close(value_map(x, kernel).of, expected)
    if selection.native_obstacle() is None:
        with implementation("fused"), pytest.raises(ValueError, match="a depth-wise kernel is 5×5"):
            value_map(x, kernel)


class Doubled(nn.Conv2d):
    """Not the convolution that projections are built with."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    "exchanged",
    [
        Doubled(6, 6, 3, padding=1, groups=6, bias=False),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, bias=False),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False, padding_mode="circular"),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)),
    ],
)
def test_an_exchanged_convolution_is_called(exchanged: nn.Module):
    projection = QueryKeyValue(6).double()
    plain, exchanged = projection.value, copy.deepcopy(exchanged).double()
    x = laid_out(noise()(2, 6, 5, 4), "channels_last")
    torch.testing.assert_close(projection.value_map(x).of, plain(x))
    projection.value = exchanged
    torch.testing.assert_close(projection.value_map(x).of, exchanged(x))


@pytest.mark.compiled
def test_compiled_under_autocast_it_follows_a_change_of_autocast(device: str):
    given = {name: one.float().to(device) for name, one in case((2, 6, 4, 3)).items()}
    x, kernel = laid_out(given["x"], "channels_last"), given["k"]
    compiled = torch.compile(value_map, backend="aot_eager", fullgraph=True)
    for enabled in (True, False):
        narrow = x.bfloat16() if enabled else x
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=enabled):
            for given_map in (narrow, x):
                found, expected = compiled(given_map, kernel), value_map(given_map, kernel)
                assert (found.pool is None) == (expected.pool is None)
                assert found.of.dtype == expected.of.dtype
                torch.testing.assert_close(found.of, expected.of, rtol=3e-2, atol=3e-2)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
def test_ops_are_well_registered(layout: str):
    given = {name: one.float() for name, one in case((2, 6, 2, 2)).items()}
    x, incoming = (laid_out(given[name], layout) for name in ("x", "incoming"))
    torch.library.opcheck(fused.value_map_backward, (incoming, given["of_pool"], x, given["k"]))
    torch.library.opcheck(fused.value_map, (x.detach().requires_grad_(), given["k"].requires_grad_()))
