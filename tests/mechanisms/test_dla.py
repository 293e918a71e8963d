"""DLA against its literal step-by-step form; its context per image; what it saves for the backward pass."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crosslayer import create_model
from crosslayer.mechanisms import StageShape, configure, lookup
from tests.mechanisms.literal_dla import literal_base, literal_light

CELLS = ["released", "paper", "dia"]


def stage(name: str, depth: int, channels: int, **options):
    torch.manual_seed(0)
    shape = StageShape(0, depth, channels, (channels, channels))
    mechanism = lookup(name).mechanism(shape, configure(name, options)).double().eval()
    for parameter in mechanism.parameters():  # far from the start, so that every term counts
        torch.nn.init.normal_(parameter, std=0.7)
    return mechanism


def merged(mechanism, outputs: list[Tensor], shortcuts: list[Tensor]) -> list[Tensor]:
    state = mechanism.start(outputs[0], None)
    results = []
    for t, (x, s) in enumerate(zip(outputs, shortcuts, strict=True)):
        result, state = mechanism.merge(t, x, s, state)
        results.append(result)
    return results


def maps(count: int, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


@settings(deadline=None, max_examples=12)
@given(
    cell=st.sampled_from(CELLS),
    activation=st.sampled_from(["sigmoid", "tanh", "relu", "identity"]),
    depth=st.integers(1, 5),
    channels=st.sampled_from([4, 6, 12]),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
)
def test_base_form_equals_the_literal_loop(cell, activation, depth, channels, height, width):
    options = {"cell": cell, "activation": activation, "head_channels": 2}
    mechanism = stage("dla_b", depth, channels, **options)
    outputs = maps(depth, 3, channels, height, width)
    for ours, literal in zip(merged(mechanism, outputs, outputs), literal_base(mechanism, outputs), strict=True):
        torch.testing.assert_close(ours, literal, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("stage_convolution", [True, False])
def test_light_form_equals_the_literal_loop(cell: str, stage_convolution: bool):
    mechanism = stage("dla_l", 4, 12, cell=cell, stage_convolution=stage_convolution, head_channels=3)
    outputs, shortcuts = maps(4, 3, 12, 5, 4), maps(8, 3, 12, 5, 4)[4:]
    literal = literal_light(mechanism, outputs, shortcuts)
    for ours, theirs in zip(merged(mechanism, outputs, shortcuts), literal, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["dla_b", "dla_l"])
def test_first_sample_context_is_the_leak_and_the_default_is_not(name: str):
    x = maps(1, 4, 3, 16, 16)[0]
    torch.manual_seed(0)
    model = create_model("cifar_resnet29", name, num_classes=5).double().eval()
    leaky = create_model("cifar_resnet29", name, num_classes=5, context="first_sample").double().eval()
    leaky.load_state_dict(model.state_dict())
    alone = torch.cat([leaky(x[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(model(x), alone, rtol=1e-9, atol=1e-9)  # alone, an image is its batch's first
    torch.testing.assert_close(leaky(x)[:1], alone[:1], rtol=1e-9, atol=1e-9)
    assert (leaky(x)[1:] - alone[1:]).abs().max() > 1e-6


def test_base_form_saves_memory_linear_in_depth():
    saved = {depth: bytes_saved("dla_b", depth) for depth in (4, 8, 16)}
    assert saved[16] - saved[8] < 2.1 * (saved[8] - saved[4])


def bytes_saved(name: str, depth: int) -> int:
    """Bytes of all distinct tensors that one stage's merges keep for the backward pass."""
    mechanism = stage(name, depth, 8).train()
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    outputs = [x.requires_grad_() for x in maps(depth, 2, 8, 32, 32)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        results = merged(mechanism, outputs, outputs)
    assert len(results) == depth
    return sum(kept.values())


def test_raw_values_are_never_rewritten():
    mechanism = stage("dla_b", 4, 8)
    outputs = maps(4, 2, 8, 5, 5)
    state = mechanism.start(outputs[0], None)
    first = None
    for t, x in enumerate(outputs):
        _, state = mechanism.merge(t, x, x, state)
        first = state.values[0].clone() if first is None else first
        assert torch.equal(state.values[0], first)


@pytest.mark.mistyped
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "relesed"}, "did you mean released"),
        ({"activation": "sigmod"}, "did you mean sigmoid"),
        ({"context": "per_image"}, "per_sample"),
        ({"reduction": 0}, "at least 1"),
        ({"head_channels": 0}, "at least one channel"),
        ({"drop_path": 1.0}, r"probability in \[0, 1\)"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        create_model("cifar_resnet20", "dla_l", num_classes=2, **options)


@pytest.mark.parametrize("mechanism", ["dla_l", "mrla_l"])
def test_a_normalisation_that_starts_at_zero_begins_as_the_plain_network(mechanism: str):
    torch.manual_seed(0)
    plain = create_model("cifar_resnet20", num_classes=3).eval()
    model = create_model("cifar_resnet20", mechanism, num_classes=3, norm_start=0.0).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(x), plain(x))
    with pytest.raises(ValueError, match="norm_start is 0"):
        create_model("deit_tiny", mechanism, num_classes=3, norm_start=0.0)
