"""The fused history sum against the float64 reference, forward and every gradient."""

import pytest
import torch
from torch import Tensor

from crosslayer.fused.history_sum import Stored, grad_slots, history_sum, store
from crosslayer.fused.history_sum import sum as fused
from tests.fused.maps import LAYOUTS, SIZES, TOLERANCE, assert_close, laid_out, noise, skip_untaken
from tests.fused.reference import ops_of

pytestmark = [pytest.mark.sampled(5), pytest.mark.usefixtures("poisoned")]


def case(shape: tuple[int, ...], layers: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Values, factors, and the gradient that comes in."""
    draw = noise()
    batch, channels = shape[:2]
    values = [draw(*shape) for _ in range(layers)]
    return values, draw(batch, layers, channels), draw(*shape)


def run(impl: str, values: list[Tensor], factors: Tensor, incoming: Tensor) -> list[Tensor]:
    """The sum and the gradients of everything."""
    leaves = [x.detach().requires_grad_() for x in (*values, factors)]
    out = ops_of(impl).history_sum(stored(impl, leaves[:-1]), leaves[-1])
    return [out, *torch.autograd.grad(out, leaves, incoming)]


def stored(impl: str, values: list[Tensor]) -> list[Stored]:
    """As blocks leave them, each of which is read up to here."""
    return [ops_of(impl).store(value, None, len(values) - m) for m, value in enumerate(values)]


def check(device: str, shape: tuple[int, ...], layers: int, dtype: torch.dtype, layout: str) -> None:
    values, factors, incoming = case(shape, layers)
    values, incoming = [x.to(dtype) for x in values], incoming.to(dtype)
    expected = run("reference", [x.double() for x in values], factors, incoming.double())
    narrow = dtype if dtype == torch.float64 else torch.float32
    moved = [laid_out(x.to(device), layout) for x in (*values, incoming)]
    found = run("fused", moved[:-1], factors.to(device, narrow), moved[-1])
    assert found[0].dtype == dtype
    assert found[0].stride() == laid_out(values[0], "contiguous" if layout == "sliced" else layout).stride()
    names = ["out", *(f"dV{m}" for m in range(layers)), "df"]
    for name, one, other in zip(names, found, expected, strict=True):
        assert_close(one, other, dtype, name)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_size_and_layout(device: str, shape: tuple[int, ...], layout: str):
    check(device, shape, 3, torch.float64, layout)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layers", [1, 5])
def test_every_precision_and_depth(device: str, dtype: torch.dtype, layers: int):
    skip_untaken(dtype, device)
    check(device, (2, 6, 5, 7), layers, dtype, "channels_last")


def test_more_layers_than_a_launch_takes(device: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("crosslayer.fused.history_sum.gpu.MOST_LAYERS", 2)
    check(device, (2, 6, 3, 2), 5, torch.float64, "contiguous")


def test_maps_of_different_layouts(device: str):
    values, factors, incoming = case((2, 6, 5, 7), 3)
    mixed = [laid_out(x, layout).to(device) for x, layout in zip(values, LAYOUTS, strict=True)]
    expected = run("reference", values, factors, incoming)
    found = run("fused", mixed, *(x.to(device) for x in (factors, incoming)))
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, torch.float64, "mixed layouts")


def test_empty_batch(device: str):
    check(device, (0, 6, 5, 7), 2, torch.float32, "contiguous")


def test_only_the_inputs_are_kept(device: str):
    values, factors, _ = case((2, 6, 5, 7), 4)
    values = [x.to(device).requires_grad_() for x in values]
    kept: set[int] = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.add(x.data_ptr()), lambda x: x):
        history_sum(stored("fused", values), factors.to(device))
    assert len(kept - {x.data_ptr() for x in values}) <= 1  # the factors


@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
def test_ops_are_well_registered(device: str, layout: str):
    values, factors, incoming = case((2, 3, 2, 2), 2)
    values = [laid_out(x, layout).to(device) for x in values]
    factors, pool = factors.to(device), values[0].mean((2, 3))
    pairs = [store(x, None, 1).slots for x in values]
    shares, slot_factors = ([pair[0][i].detach().requires_grad_() for pair in pairs if pair] for i in (0, 1))
    leaf = factors.clone().requires_grad_()
    torch.library.opcheck(fused.weighted_sum, (values, leaf, [0, 1], shares, slot_factors))
    direct = [values[0].clone().requires_grad_(), values[1]]
    torch.library.opcheck(fused.weighted_sum, (direct, leaf, [1], shares[1:], slot_factors[1:]))
    torch.library.opcheck(fused.factor_gradients, (incoming.to(device), values, factors))
    for known in (None, pool):
        torch.library.opcheck(grad_slots.grad_slots, (values[0].clone().requires_grad_(), known, 2))
        torch.library.opcheck(grad_slots.summed, (values, factors, known))


@pytest.mark.parametrize("with_slots", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_several_blocks_read_one_value_and_one_slot_is_left(device: str, layout: str, with_slots: tuple[bool, bool]):
    """What the value receives is the sum over its readers and its pool; a block that never comes sends nothing."""
    values, factors, incoming = case((2, 6, 5, 7), 2)

    def gradients(impl: str) -> list[Tensor]:
        first, second = (laid_out(x, layout).to(device).requires_grad_() for x in values)
        ops, weights = ops_of(impl), factors.to(device)
        old, new = ops.store(first, first.mean((2, 3)), 3), ops.store(second, second.mean((2, 3)), 2)
        if impl == "fused":
            assert torch.equal(old.pool, first.mean((2, 3)))
            old, new = (
                one if there else one._replace(slots=None) for one, there in zip((old, new), with_slots, strict=True)
            )
        out = ops.history_sum([old], weights[:, :1]) + ops.history_sum([old, new], weights)
        loss = (out * incoming.to(device)).sum() + old.pool.square().sum() + new.pool.sum()
        return list(torch.autograd.grad(loss, [first, second]))

    for one, other in zip(gradients("fused"), gradients("reference"), strict=True):
        assert_close(one, other.cpu(), torch.float64, "shared value")


def test_a_value_of_which_only_the_pool_is_read(device: str):
    value = case((2, 6, 5, 7), 1)[0][0].to(device).requires_grad_()
    pool = store(value, value.detach().mean((2, 3)), 2).pool
    assert pool is not None
    found, expected = (torch.autograd.grad(one.square().sum(), value)[0] for one in (pool, value.mean((2, 3))))
    torch.testing.assert_close(found, expected)


def test_more_readers_than_a_value_was_stored_for_are_refused(device: str):
    values, factors, _ = case((2, 6, 5, 7), 2)
    with pytest.raises(ValueError, match="stored for 1 readers, and this is one more"):
        history_sum([store(value.to(device), None, 1) for value in values], factors.to(device))
