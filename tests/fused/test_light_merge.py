"""The fused merge of the L forms against the float64 reference, forward, running statistics, every gradient."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from crosslayer.fused import support
from crosslayer.fused.batch_norm import BatchNorm
from crosslayer.fused.light_merge import autograd as fused
from crosslayer.fused.light_merge import gradients as light_gradients
from crosslayer.fused.light_merge import light_merge
from crosslayer.fused.support import runs_triton
from tests.fused.maps import LAYOUTS, SIZES, TOLERANCE, assert_close, laid_out, noise, skip_untaken
from tests.fused.reference import ops_of

pytestmark = [pytest.mark.sampled(5), pytest.mark.usefixtures("poisoned")]

NAMES = ["x", "shortcut", "value_kernel", "gate", "scale", "shortcut_kernel", "weight", "bias"]


class Case(NamedTuple):
    """Everything the op is given, and the gradient that comes in."""

    leaves: list[Tensor]
    running: list[Tensor]
    keep: Tensor
    incoming: Tensor


def case(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, offset: float = 1.0) -> Case:
    """Maps rounded to `dtype`, all in float64."""
    draw = noise()
    batch, channels = shape[:2]
    heads = next(heads for heads in (3, 2, 1) if channels % heads == 0)
    maps = [draw(*shape), draw(*shape) + offset]
    kernels = [draw(channels, 1, 3, 3) for _ in range(2)]
    vectors = [draw(batch, heads), draw(batch, channels), draw(channels), draw(channels)]
    keep = (torch.arange(batch) % 3 != 1).double().view(-1, 1, 1, 1) * 1.25
    leaves = [x.to(dtype).double() for x in maps]
    leaves += [kernels[0], vectors[0], vectors[1], kernels[1], vectors[2], vectors[3]]
    return Case(leaves, [draw(channels), draw(channels).square() + 0.1], keep, draw(*shape).to(dtype).double())


def run(impl: str, case: Case, training: bool, carried: bool = True, kept: bool = True) -> dict[str, Tensor]:
    """The output, the running statistics, and every gradient."""
    leaves = dict(zip(NAMES, (x.detach().requires_grad_() for x in case.leaves), strict=True))
    if not carried:
        del leaves["shortcut_kernel"]
    running = [x.clone() for x in case.running]
    norm = BatchNorm(leaves["weight"], leaves["bias"], *running, training, 0.1, 1e-5)
    terms = [leaves.get(name) for name in NAMES[:6]]
    out, pool = ops_of(impl).light_merge(*terms, norm, case.keep if kept else None, pooled=True)
    assert not pool.requires_grad
    gradients = torch.autograd.grad(out, list(leaves.values()), case.incoming)
    names = ["out", "pool", "running_mean", "running_var", *leaves]
    return dict(zip(names, [out.detach(), pool.detach(), *running, *gradients], strict=True))


def moved(case: Case, device: str, dtype: torch.dtype, layout: str) -> Case:
    """On the device: maps in their dtype and layout, what is small in float32."""
    narrow = dtype if dtype == torch.float64 else torch.float32
    maps = [laid_out(x.to(device, dtype), layout) for x in case.leaves[:2]]
    small = [x.to(device, narrow) for x in case.leaves[2:]]
    running = [x.to(device, narrow) for x in case.running]
    return Case(
        [*maps, *small], running, case.keep.to(device, dtype), laid_out(case.incoming.to(device, dtype), layout)
    )


def check(device: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str, training: bool, **flags: bool) -> None:
    given = case(shape, dtype)
    expected = run("reference", given, training, **flags)
    found = run("fused", moved(given, device, dtype, layout), training, **flags)
    assert found["out"].dtype == dtype
    assert found["out"].stride() == laid_out(expected["out"], "contiguous" if layout == "sliced" else layout).stride()
    for name, one in found.items():
        assert_close(one, expected[name], dtype, name)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_size_and_layout(device: str, shape: tuple[int, ...], layout: str):
    training = shape[0] * shape[2] * shape[3] > 1
    check(device, shape, torch.float64, layout, training, carried=layout != "sliced", kept=layout != "contiguous")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("training", "carried"), [(True, True), (False, False)])
def test_every_precision_and_mode(device: str, dtype: torch.dtype, training: bool, carried: bool):
    skip_untaken(dtype, device)
    check(device, (2, 6, 3, 4), dtype, "channels_last", training, carried=carried)


def test_more_columns_and_channels_than_a_tile(device: str):
    check(device, (1, 2, 2, 70), torch.float64, "contiguous", True)
    check(device, (1, 70, 2, 5), torch.float64, "channels_last", True)


def test_rows_of_one_program_only(device: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("crosslayer.fused.gpu.launch.ENOUGH_PROGRAMS", 1)
    check(device, (2, 6, 9, 3), torch.float64, "contiguous", True)


@pytest.mark.parametrize("training", [True, False])
def test_empty_batch(device: str, training: bool):
    check(device, (0, 6, 5, 4), torch.float32, "contiguous", training)


def test_variance_far_from_zero_keeps_its_digits(device: str):
    given = case((2, 6, 5, 4), offset=3000.0)
    given = Case([x.float().double() for x in given.leaves], *given[1:])
    expected = run("reference", given, True)
    found = run("fused", moved(given, device, torch.float32, "contiguous"), True)
    torch.testing.assert_close(found["running_var"].double().cpu(), expected["running_var"], rtol=1e-4, atol=0)


def test_a_single_value_has_no_variance(device: str):
    given = moved(case((1, 6, 1, 1)), device, torch.float32, "contiguous")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        run("fused", given, True)


def test_fused_twice_is_the_same_to_the_bit(device: str):
    given = moved(case((2, 6, 5, 3)), device, torch.float32, "channels_last")
    first, second = run("fused", given, True), run("fused", given, True)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_map_is_kept_but_x_the_shortcut_and_on_a_cpu_what_is_normalised(device: str):
    given = moved(case((2, 6, 5, 4)), device, torch.float32, "contiguous")
    x, shortcut = (leaf.requires_grad_() for leaf in given.leaves[:2])
    kept: list[Tensor] = []
    keeps = not runs_triton(x)
    norm = BatchNorm(*given.leaves[6:], *given.running, True, 0.1, 1e-5)
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda saved: saved):
        light_merge(x, shortcut, *given.leaves[2:6], norm)
    maps = {saved.data_ptr() for saved in kept if saved is not None and saved.shape == x.shape}
    assert maps > {x.data_ptr(), shortcut.data_ptr()} if keeps else maps == {x.data_ptr(), shortcut.data_ptr()}
    assert len(maps) == 2 + keeps


@pytest.mark.parametrize(("layout", "training"), [("channels_last", True), ("contiguous", False)])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
def test_ops_are_well_registered(device: str, layout: str, training: bool):
    given = moved(case((2, 6, 2, 2)), device, torch.float32, layout)
    gate = given.leaves[3].repeat_interleave(2, dim=1)
    terms = [*given.leaves[:3], gate, *given.leaves[4:6]]
    keep = given.keep.flatten()
    maps = given.leaves[:2]
    merged = torch.randn_like(maps[0]) if training else None
    tail = (*given.running, keep, merged)
    backward = (given.incoming, *terms, given.leaves[6], *tail)
    torch.library.opcheck(light_gradients.normalise_backward, (*backward, [], 1e-5, 0.0))
    if device == "cpu" and not support.INTERPRETED:
        ending = [given.leaves[6], given.leaves[7], *given.running]
        torch.library.opcheck(light_gradients.normalise_backward, (*backward, ending, 1e-5, 1e-5))
    torch.library.opcheck(fused.statistics, (*terms[:5], terms[5] if training else None))
    leaves = [x.detach().requires_grad_() for x in (*terms, *given.leaves[6:])]
    torch.library.opcheck(fused.normalise, (*leaves, *tail, [], [], 1e-5, 0.0, training))
