"""Ops one after another, as executors call them, under all that PyTorch does to a network around them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from crosslayer.fused.batch_norm import BatchNorm
from crosslayer.fused.custom_op import NO_SECOND_DERIVATIVES
from tests.fused.maps import laid_out, noise
from tests.fused.reference import ops_of

pytestmark = pytest.mark.sampled(3)

SHAPE = (3, 6, 4, 5)
Leaves = dict[str, Tensor]


def leaves(device: str, dtype: torch.dtype = torch.float64) -> Leaves:
    """What two blocks are made of."""
    draw, (batch, channels) = noise(), SHAPE[:2]
    sizes: dict[str, tuple[int, ...]] = dict.fromkeys(("x", "s", "y"), SHAPE)
    sizes |= dict.fromkeys(("k", "carried"), (channels, 1, 3, 3))
    sizes |= dict.fromkeys(("w", "b"), (channels,)) | {"f": (batch, 2, channels)}
    made = {name: draw(*size).to(device, dtype) for name, size in sizes.items()}
    made |= {name: laid_out(made[name], "channels_last") for name in ("x", "s", "y")}
    return {name: one.requires_grad_() for name, one in made.items()}


def norm_of(leaf: Leaves, training: bool, bias: bool = True) -> BatchNorm:
    running = torch.zeros_like(leaf["w"].detach()), torch.ones_like(leaf["w"].detach())
    return BatchNorm(leaf["w"], leaf["b"] if bias else None, *running, training)


def light(ops: Any, leaf: Leaves, norm: BatchNorm) -> Tensor:
    """An end with its merge, and the next block's end whose shortcut is that merge's output; all pools are used."""
    out, pool, of_shortcut, ending = ops.residual_output(leaf["x"], leaf["s"], norm, leaf["s"].detach().mean((2, 3)))
    terms = (leaf["k"], torch.sigmoid(pool), torch.tanh(of_shortcut), leaf["carried"])
    merged, known = ops.light_merge(out, leaf["s"], *terms, norm, pooled=True, ending=ending)
    last, pool, of_shortcut, _ = ops.residual_output(leaf["y"], merged, norm, known)
    return last * torch.sigmoid(pool + of_shortcut)[..., None, None]


def base(ops: Any, leaf: Leaves, norm: BatchNorm) -> Tensor:
    """Two blocks that store values; the second reads both."""
    first = ops.residual_value(leaf["x"], leaf["s"], norm, leaf["k"])
    old = ops.store(first.value, first.value_pool, 2)
    out = first.out + ops.history_sum([old], leaf["f"][:, :1])
    second = ops.residual_value(leaf["y"], out, norm, leaf["k"])
    new = ops.store(second.value, second.value_pool, 1)
    factors = leaf["f"] * torch.sigmoid(new.pool + second.pool + old.pool)[:, None]
    return second.out + ops.history_sum([old, new], factors)


def base_norm(ops: Any, leaf: Leaves, norm: BatchNorm) -> Tensor:
    """With what follows the sum."""
    value = ops.residual_value(leaf["x"], leaf["s"], norm, leaf["k"])
    stored = ops.store(value.value, value.value_pool, 1)
    return ops.history_sum_norm(value.out, [stored], leaf["f"][:, :1] * stored.pool[:, None], norm)


PROGRAMS = {"light": light, "base": base, "base_norm": base_norm}


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest, device: str) -> Callable[..., Tensor]:
    from crosslayer.fused.support import runs_triton

    if request.param == "base_norm" and runs_triton(torch.ones(1, device=device)):
        pytest.skip("the C++ passes' alone")
    return PROGRAMS[request.param]


def gradients(loss: Tensor, leaf: Leaves) -> Leaves:
    found = torch.autograd.grad(loss, list(leaf.values()), allow_unused=True)
    return {name: one for name, one in zip(leaf, found, strict=True) if one is not None}


def assert_same(found: Leaves, expected: Leaves) -> None:
    assert found.keys() == expected.keys()
    for name, one in found.items():
        torch.testing.assert_close(one, expected[name], rtol=1e-9, atol=1e-9, msg=lambda text, name=name: name + text)


def truth(program: Callable[..., Tensor], leaf: Leaves, training: bool, bias: bool = True) -> Leaves:
    return gradients(program(ops_of("reference"), leaf, norm_of(leaf, training, bias)).square().sum(), leaf)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_all_gradients(device: str, program: Callable[..., Tensor], training: bool, bias: bool):
    leaf = leaves(device)
    found = gradients(program(ops_of("fused"), leaf, norm_of(leaf, training, bias)).square().sum(), leaf)
    assert_same(found, truth(program, leaf, training, bias))
    assert ("b" in found) == bias


@pytest.mark.parametrize("training", [True, False])
def test_checkpoints(device: str, program: Callable[..., Tensor], training: bool):
    leaf = leaves(device)
    out = checkpoint(program, ops_of("fused"), leaf, norm_of(leaf, training), use_reentrant=False)
    assert isinstance(out, Tensor)
    assert_same(gradients(out.square().sum(), leaf), truth(program, leaf, training))


@pytest.mark.parametrize("training", [True, False])
def test_saved_maps_may_come_back_in_another_layout(device: str, program: Callable[..., Tensor], training: bool):
    leaf = leaves(device)

    def pack(one: Tensor) -> Tensor:  # as save_on_cpu(pin_memory=True) does
        return torch.empty(one.size(), dtype=one.dtype, device=one.device).copy_(one)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
        out = program(ops_of("fused"), leaf, norm_of(leaf, training))
    assert_same(gradients(out.square().sum(), leaf), truth(program, leaf, training))


def test_second_derivatives_are_refused(device: str, program: Callable[..., Tensor]):
    leaf = leaves(device)
    out = program(ops_of("fused"), leaf, norm_of(leaf, True))
    with pytest.raises(RuntimeError, match="has no second derivatives") as error:
        torch.autograd.grad(out.sum(), leaf["x"], create_graph=True)
    assert str(error.value) == NO_SECOND_DERIVATIVES


@pytest.mark.parametrize("training", [True, False])
def test_two_forward_passes_before_their_backward_passes(device: str, program: Callable[..., Tensor], training: bool):
    leaf, expected = leaves(device), truth(program, leaves(device), training)
    norm = norm_of(leaf, training)
    outs = [program(ops_of("fused"), leaf, norm) for _ in range(2 if training else 1)]
    norm.running_mean.add_(1)
    norm.running_var.mul_(2)
    for out in outs:
        assert_same(gradients(out.square().sum(), leaf), expected)


@pytest.mark.compiled
@pytest.mark.parametrize("training", [True, False])
def test_compiles_as_one_graph(device: str, program: Callable[..., Tensor], training: bool):
    leaf, ops = leaves(device), ops_of("fused")
    compiled = torch.compile(lambda norm, leaf: program(ops, leaf, norm), backend="aot_eager", fullgraph=True)
    out = compiled(norm_of(leaf, training), leaf)
    assert_same(gradients(out.square().sum(), leaf), truth(program, leaf, training))


def test_counts_as_many_operations_as_plain_pytorch(device: str, program: Callable[..., Tensor]):
    counts = {}
    for impl in ("reference", "fused"):
        leaf, ops = leaves(device), ops_of(impl)  # formulas are registered before a counter begins
        with FlopCounterMode(display=False) as counter:
            out = program(ops, leaf, norm_of(leaf, True))
            forward = counter.get_total_flops()
            out.sum().backward()
        counts[impl] = (forward, counter.get_total_flops())
    assert counts["fused"] == counts["reference"]
    assert counts["fused"][0] > 0


def test_a_map_of_no_numbers_stays_in_its_image(device: str, program: Callable[..., Tensor]):
    leaf = leaves(device)
    with torch.no_grad():
        leaf["x"][1, :, 2, 2] = torch.nan
    out = program(ops_of("fused"), leaf, norm_of(leaf, False))
    found = gradients(out[[0, 2]].square().sum(), leaf)
    assert out[1].isnan().any()
    assert not out[[0, 2]].isnan().any()
    assert not found["x"][[0, 2]].isnan().any()
