"""KCLA against its literal form as released, step by step; what float16 and zeros do; what is carried."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crosslayer import create_model, graft, list_mechanisms
from crosslayer.mechanisms import StageShape, configure, lookup
from crosslayer.mechanisms.kcla import KeyCorrelatedLayerAttention, State
from crosslayer.models import ResNet
from tests.mechanisms.hosts import FOREIGN

RENEWED = 11


def stage(depth: int, channels: int, index: int = 0, small: bool = True, **options) -> KeyCorrelatedLayerAttention:
    torch.manual_seed(0)
    shape = StageShape(index, depth, channels, (8, 8), small_images=small)
    mechanism = lookup("kcla").mechanism(shape, configure("kcla", options)).double().eval()
    for parameter in mechanism.parameters():  # far from the start, so that every term counts
        nn.init.normal_(parameter, std=0.7)
    assert isinstance(mechanism, KeyCorrelatedLayerAttention)
    return mechanism


def run(mechanism: KeyCorrelatedLayerAttention, outputs: list[Tensor], carry: Tensor | None) -> tuple:
    state, results = mechanism.start(outputs[0], carry), []
    for t, out in enumerate(outputs):
        result, state = mechanism.merge(t, out, out, state)
        results.append(result)
    return results, state


def literal(m: KeyCorrelatedLayerAttention, outputs: list[Tensor], carry: Tensor | None) -> list[Tensor]:
    """The released loop: weighted outputs and weights are summed up as they are."""
    d = m.head_channels
    heads = outputs[0].shape[1] // d
    scales = torch.exp(torch.linspace(math.log(0.7), math.log(1 / 0.7), heads, dtype=torch.float64))

    def weight(key: Tensor) -> Tensor:
        return (scales * key.unflatten(1, (heads, d)).norm(dim=2)).clamp(max=10).exp()

    def wide(numbers: Tensor) -> Tensor:
        return numbers.repeat_interleave(d, 1)[..., None, None]

    def renewed(t: str, past: Tensor) -> tuple[Tensor, Tensor]:
        entry = m.transitions[t].norm(past)
        z = weight(m.transitions[t].key(entry.mean((2, 3))))
        return wide(z) * entry, z

    u, z = torch.zeros(()), torch.zeros(())
    if carry is not None:
        u, z = renewed("0", m.transitions["0"].projection(carry))
    results = []
    for t, o in enumerate(outputs):
        if t == RENEWED and has_renewal(m):
            u, z = renewed(str(RENEWED), u / wide(z))
        y = o.mean((2, 3))
        query, key = m.projections[t].query(y).unflatten(1, (heads, d)), m.projections[t].key(y)
        u, z = u + wide(weight(key)) * o, z + weight(key)
        v = m.projections[t].value(u / (wide(z) + 1e-3))
        key = key.unflatten(1, (heads, d))
        gate = torch.sigmoid((query * key / key.norm(dim=2, keepdim=True)).sum(2) @ m.mixers[t].T)
        results.append(o + F.relu(m.branches[t][0](wide(gate) * v)))
    return results


def has_renewal(mechanism: KeyCorrelatedLayerAttention) -> bool:
    return mechanism.transitions is not None and str(RENEWED) in mechanism.transitions


def maps(count: int, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("options", [{}, {"head_channels": 8}, {"released_parameters": True}])
def test_equals_the_released_loop(small: bool, linked: bool, options: dict):
    mechanism = stage(14, 64, index=1, small=small, **options)
    if mechanism.divisors is not None:
        heads = 64 // mechanism.head_channels
        for divisor in mechanism.divisors:
            nn.init.constant_(divisor, 1)
            divisor.data /= torch.exp(torch.linspace(math.log(0.7), math.log(1 / 0.7), heads, dtype=torch.float64))
    carry = maps(1, 3, 32, 9, 7)[0] if linked else None
    outputs = [out.relu() for out in maps(14, 3, 64, 5, 4)]
    assert has_renewal(mechanism) != small
    for ours, theirs in zip(run(mechanism, outputs, carry)[0], literal(mechanism, outputs, carry), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_float16_neither_overflows_nor_drifts():
    """The released sum is infinite here: weights are e¹⁰ = 22026 and maps are of the order of 40."""
    mechanism = stage(6, 64)
    for projection in mechanism.projections:
        nn.init.constant_(projection.key.weight, 2.0)
    outputs = [40 * out.abs() for out in maps(6, 2, 64, 5, 4)]
    exact, state = run(mechanism, outputs, None)
    assert state.log_total.max() > math.log(torch.finfo(torch.float16).max)
    half = [out.half() for out in outputs]
    for ours, theirs in zip(run(mechanism.half(), half, None)[0], exact, strict=True):
        assert ours.dtype == torch.float16
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-2, atol=0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_map_of_zeros_is_no_number_less(dtype: torch.dtype):
    mechanism = stage(3, 32).to(dtype).train()
    outputs = [torch.zeros(2, 32, 4, 4, dtype=dtype, requires_grad=True) for _ in range(3)]
    results, _ = run(mechanism, outputs, None)
    torch.stack(results).float().square().sum().backward()
    gradients = [x.grad for x in (*outputs, *mechanism.parameters())]
    assert all(result.isfinite().all() for result in results)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_state_does_not_grow_with_depth_but_for_what_is_drawn():
    mechanism = stage(10, 64)
    outputs = maps(10, 2, 64, 6, 6)
    states = [run(mechanism, outputs[: t + 1], None)[1] for t in range(10)]
    assert all(isinstance(state, State) for state in states)
    assert all(state.mean.shape == outputs[0].shape and state.log_total.shape == (2, 4) for state in states)
    assert [len(state.shares) for state in states] == [*range(1, 11)]
    assert all(share.numel() == 2 * 4 for share in states[-1].shares)
    assert all(a.mean.data_ptr() != b.mean.data_ptr() for a, b in pairwise(states))


def test_attention_is_the_weights_of_the_mean():
    mechanism = stage(5, 32)
    outputs = [out.relu() for out in maps(5, 2, 32, 4, 4)]
    state = run(mechanism, outputs, None)[1]
    last = mechanism.attention(state)[:, :, -1].repeat_interleave(mechanism.head_channels, dim=1)
    mean = sum(last[:, :, t, None, None] * out for t, out in enumerate(outputs))
    torch.testing.assert_close(mean, state.mean, rtol=1e-12, atol=1e-12)


def test_stages_are_linked():
    """What the first stage's last block has no other way to tell: its output's share in the later stages' means."""
    torch.manual_seed(0)
    model = create_model("cifar_resnet20", "kcla", num_classes=3).eval()
    assert isinstance(model, ResNet)
    x = model.forward_stem(torch.randn(2, 3, 16, 16))
    depth = model.stages[0].begin(x)
    x, carry = model.stages[0](x, depth), depth.finish()
    assert carry.shape == x.shape
    linked = model.stages[1](x, model.stages[1].begin(x, carry))
    assert not torch.equal(linked, model.stages[1](x, model.stages[1].begin(x)))


def test_grafted_stages_stand_alone():
    plain, *_ = FOREIGN["resnet"]
    grafted = graft(plain(), "kcla")
    own = [m for m in grafted.modules() if isinstance(m, KeyCorrelatedLayerAttention)]
    assert len(own) > 1
    assert all(m.transitions is None for m in own)


def test_recomputed_activations_give_the_same_gradients():
    torch.manual_seed(0)
    model = create_model("cifar_resnet20", "kcla", num_classes=3).double()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    gradients = []
    for recomputed in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(recomputed)
        model(x).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-10, atol=1e-12)


def test_other_widths_are_projected_from_the_stage_before():
    shape = StageShape(1, 2, 24, (6, 6), small_images=True, previous_channels=20)
    mechanism = lookup("kcla").mechanism(shape, configure("kcla", {"head_channels": 8}))
    projection = mechanism.transitions["0"].projection
    assert (projection.in_channels, projection.out_channels, projection.groups) == (20, 24, 1)


@pytest.mark.parametrize("options", [{"head_channels": 0}, {"drop_path": 1.0}])
def test_options_are_checked(options: dict):
    with pytest.raises(ValueError, match=next(iter(options))):
        configure("kcla", options)
    assert "kcla" in list_mechanisms()
