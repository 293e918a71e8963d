"""The fused history sum against the float64 reference, forward and every gradient."""

import pytest
import torch
from torch import Tensor

from crosslayer.ops import StoredValue, history_sum, implementation, store_value
from crosslayer.ops.fused import claims
from crosslayer.ops.fused import history_sum as fused
from tests.ops.maps import LAYOUTS, SIZES, TOLERANCE, assert_close, laid_out, noise, refused

pytestmark = pytest.mark.usefixtures("poisoned")


def case(shape: tuple[int, ...], layers: int) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Values, weights, scales, and the gradient that comes in."""
    draw = noise()
    batch, channels = shape[:2]
    values = [draw(*shape) for _ in range(layers)]
    heads = next(heads for heads in (3, 2, 1) if channels % heads == 0)
    return values, draw(batch, heads, layers), draw(batch, layers, channels), draw(*shape)


def run(impl: str, values: list[Tensor], weights: Tensor, scales: Tensor, incoming: Tensor) -> list[Tensor]:
    """The sum and the gradients of everything."""
    leaves = [x.detach().requires_grad_() for x in (*values, weights, scales)]
    with implementation(impl):
        out = history_sum(stored(leaves[: len(values)]), *leaves[len(values) :])
    return [out, *torch.autograd.grad(out, leaves, incoming)]


def stored(values: list[Tensor]) -> list[StoredValue]:
    """As blocks leave them, each of which is read up to here."""
    return [store_value(value, len(values) - m) for m, value in enumerate(values)]


def check(device: str, shape: tuple[int, ...], layers: int, dtype: torch.dtype, layout: str) -> None:
    values, weights, scales, incoming = case(shape, layers)
    values, incoming = [x.to(dtype) for x in values], incoming.to(dtype)
    expected = run("reference", [x.double() for x in values], weights, scales, incoming.double())
    narrow = dtype if dtype == torch.float64 else torch.float32
    moved = [laid_out(x.to(device), layout) for x in (*values, incoming)]
    found = run("fused", moved[:-1], weights.to(device, narrow), scales.to(device, narrow), moved[-1])
    assert found[0].dtype == dtype
    assert found[0].stride() == laid_out(values[0], "contiguous" if layout == "sliced" else layout).stride()
    names = ["out", *(f"dV{m}" for m in range(layers)), "da", "dG"]
    for name, one, other in zip(names, found, expected, strict=True):
        assert_close(one, other, dtype, name)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_size_and_layout(device: str, shape: tuple[int, ...], layout: str):
    check(device, shape, 3, torch.float64, layout)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layers", [1, 5])
def test_every_precision_and_depth(device: str, dtype: torch.dtype, layers: int):
    with refused(dtype, device):
        check(device, (2, 6, 5, 7), layers, dtype, "channels_last")


def test_more_layers_than_a_launch_takes(device: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("crosslayer.ops.triton.history_passes.MOST_LAYERS", 2)
    check(device, (2, 6, 3, 2), 5, torch.float64, "contiguous")


def test_maps_of_different_layouts(device: str):
    values, weights, scales, incoming = case((2, 6, 5, 7), 3)
    mixed = [laid_out(x, layout).to(device) for x, layout in zip(values, LAYOUTS, strict=True)]
    expected = run("reference", values, weights, scales, incoming)
    found = run("fused", mixed, *(x.to(device) for x in (weights, scales, incoming)))
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, torch.float64, "mixed layouts")


def test_empty_batch(device: str):
    check(device, (0, 6, 5, 7), 2, torch.float32, "contiguous")


def test_only_the_inputs_are_kept(device: str):
    values, weights, _, _ = case((2, 6, 5, 7), 4)
    values = [x.to(device).requires_grad_() for x in values]
    kept: set[int] = set()
    with (
        implementation("fused"),
        torch.autograd.graph.saved_tensors_hooks(lambda x: kept.add(x.data_ptr()), lambda x: x),
    ):
        history_sum(stored(values), weights.to(device))
    assert len(kept - {x.data_ptr() for x in values}) <= 1  # the factors


@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
def test_ops_are_well_registered(device: str, layout: str):
    values, _, scales, incoming = case((2, 3, 2, 2), 2)
    values = [laid_out(x, layout).to(device) for x in values]
    scales = scales.to(device)
    shares, claimed = ([claim[i] for claim in (claims.claims_on(x, 1)[0] for x in values)] for i in (0, 1))
    leaves = ([x.requires_grad_() for x in shares], [x.requires_grad_() for x in claimed])
    torch.library.opcheck(fused.fused, (values, scales.clone().requires_grad_(), *leaves))
    torch.library.opcheck(fused.fused_backward, (incoming.to(device), values, scales))
    torch.library.opcheck(claims.claims, (values[0].clone().requires_grad_(), 2))
    torch.library.opcheck(claims.settle, (values, scales))


def test_several_blocks_read_one_value_and_one_claim_is_left(device: str):
    """What the value receives is the sum over its readers; a block that never comes sends nothing."""
    values, weights, _, incoming = case((2, 6, 5, 7), 2)

    def gradients(impl: str) -> list[Tensor]:
        first, second = (laid_out(x, "channels_last").to(device).requires_grad_() for x in values)
        with implementation(impl):
            old, new = store_value(first, 3), store_value(second, 2)
            out = history_sum([old], weights[..., :1].to(device)) + history_sum([old, new], weights.to(device))
        return list(torch.autograd.grad(out, [first, second], incoming.to(device)))

    for one, other in zip(gradients("fused"), gradients("reference"), strict=True):
        assert_close(one, other.cpu(), torch.float64, "shared value")


def test_more_readers_than_a_value_was_stored_for_are_refused(device: str):
    values, weights, _, _ = case((2, 6, 5, 7), 2)
    with implementation("fused"), pytest.raises(AssertionError, match="fewer readers than it has"):
        history_sum([store_value(value.to(device), 1) for value in values], weights.to(device))
