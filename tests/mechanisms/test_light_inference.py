"""Light forms whose blocks end with one op in inference: where they do, and that nothing else is any different."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosslayer.mechanisms.batch_norm import plain_norm
from crosslayer.models.block import BasicBlock
from crosslayer.models.factory import mechanism_factory
from crosslayer.models.stage import Stage
from crosslayer.ops import implementation, selection
from crosslayer.ops.native import light_block_passes

FORMS: dict[str, dict[str, Any]] = {
    "dla_l": {"mechanism": "dla_l"},
    "dla_l as printed": {"mechanism": "dla_l", "stage_convolution": False},
    "mrla_l": {"mechanism": "mrla_l"},
}
DEPTH = 3


class OneStage(nn.Module):
    """Three blocks that look back, the first with a projection; running statistics that are none of the start's."""

    def __init__(self, mechanism: str, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        factory = mechanism_factory(mechanism, options)
        self.stage = Stage(0, BasicBlock, DEPTH, 4, 8, 1, factory, last=True, small_images=True)
        for norm in self.modules():
            if plain_norm(norm):
                norm.running_mean.normal_(0, 0.3)
                norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """The output, and the mechanism's last state."""
        mechanism = self.stage.mechanism
        state = mechanism.start(x, None)
        for block in self.stage.blocks:
            x, state = block(x, mechanism, state)
        return x, state


def images(batch: int = 3) -> Tensor:
    drawn = torch.randn(batch, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    return drawn.contiguous(memory_format=torch.channels_last)


def evaluated(form: str) -> OneStage:
    return OneStage(**FORMS[form]).eval().to(memory_format=torch.channels_last)


@pytest.fixture(autouse=True)
def native():
    if obstacle := selection.native_obstacle():
        pytest.skip(obstacle)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """One entry for every block that has ended with the one op."""
    calls: list[int] = []
    run = light_block_passes.light_block

    def counted(*args: Any) -> Any:
        calls.append(1)
        return run(*args)

    monkeypatch.setattr(light_block_passes, "light_block", counted)
    return calls


def assert_same(found: Any, expected: Any, **tolerance: float) -> None:
    """States too: tensors that are close and of one dtype, wherever they stand."""
    if isinstance(expected, Tensor):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, **tolerance)
    elif isinstance(expected, (list, tuple)):
        assert type(found) is type(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, **tolerance)


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_output_state_and_attention_are_those_of_the_reference(taken: list[int], form: str):
    model, x = evaluated(form).double(), images().double()
    with implementation("reference"):
        out, state = model(x)
    assert not taken
    found, found_state = model(x)
    assert len(taken) == DEPTH
    tolerance = {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(found, out, **tolerance)
    attention = model.stage.mechanism.attention
    torch.testing.assert_close(attention(found_state), attention(state), **tolerance)
    pool = getattr(found_state, "pool", None)
    assert pool is None or pool.of is found
    known = state if pool is None else state._replace(pool=found_state.pool)  # the reference has none
    assert_same(found_state, known, **tolerance)


@torch.inference_mode()
@pytest.mark.parametrize("form", FORMS)
def test_autocast_and_state_in_the_same_dtypes(taken: list[int], form: str):
    model, x = evaluated(form), images()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x)
        assert len(taken) == DEPTH
        model.stage.mechanism.end_block = super(type(model.stage.mechanism), model.stage.mechanism).end_block
        expected = model(x)
    assert len(taken) == DEPTH
    assert_same(found, expected, rtol=0.05, atol=0.1)


def training(model: OneStage) -> None:
    model.train()


def one_norm_training(model: OneStage) -> None:
    model.stage.mechanism.branches[1].train()


def exchanged_norm(model: OneStage) -> None:
    model.stage.mechanism.branches[1][0] = nn.GroupNorm(2, 8)


def exchanged_last_norm(model: OneStage) -> None:
    model.stage.blocks[1].bn2 = nn.GroupNorm(2, 8)


def exchanged_squeeze(model: OneStage) -> None:
    model.stage.mechanism.cell.of_input[0] = nn.Sequential(model.stage.mechanism.cell.of_input[0])


@torch.no_grad()
@pytest.mark.parametrize(
    ("change", "left"),
    [
        (training, 0),
        (one_norm_training, 2),
        (exchanged_norm, 2),
        pytest.param(exchanged_last_norm, 2, marks=pytest.mark.mistyped),
        (exchanged_squeeze, 0),
    ],
)
def test_what_is_not_as_built_is_left_to_single_ops(taken: list[int], change: Callable[[OneStage], None], left: int):
    model, x = evaluated("dla_l").double(), images().double()
    change(model.double())
    model.double()
    other = copy.deepcopy(model)
    found, state = model(x)
    assert len(taken) == left
    with implementation("reference"):
        expected, expected_state = other(x)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    assert_same(state.context, expected_state.context, rtol=1e-11, atol=1e-11)
    for (name, one), (_, same) in zip(model.named_buffers(), other.named_buffers(), strict=True):
        torch.testing.assert_close(one, same, rtol=1e-11, atol=1e-11, msg=name)


@torch.no_grad()
@pytest.mark.parametrize(
    "options", [{"cell": "paper"}, {"cell": "lstm"}, {"activation": "tanh"}, {"context": "first_sample"}]
)
def test_other_cells_are_left_to_single_ops(taken: list[int], options: dict[str, Any]):
    model, x = OneStage("dla_l", **options).double().eval(), images().double()
    found, _ = model(x)
    assert not taken
    with implementation("reference"):
        torch.testing.assert_close(found, model(x)[0], rtol=1e-11, atol=1e-11)


def test_not_taken_where_gradients_are_asked_for(taken: list[int]):
    model = evaluated("dla_l")
    model(images())[0].sum().backward()
    assert not taken
    assert model.stage.mechanism.lambdas[0].grad is not None


@torch.no_grad()
def test_not_taken_for_fewer_images_than_threads(taken: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    evaluated("mrla_l")(images(1))
    assert not taken
    evaluated("mrla_l")(images(2))
    assert taken


@pytest.mark.compiled
@torch.inference_mode()
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_as_one_graph(taken: list[int], form: str, backend: str):
    model, x = evaluated(form), images()
    expected = model(x)[0]
    taken.clear()
    found = torch.compile(lambda x: model(x)[0], backend=backend, fullgraph=True)(x)
    assert len(taken) == DEPTH
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.compiled
@torch.no_grad()
def test_exports_in_pytorchs_own_operations(taken: list[int]):
    model, x = evaluated("dla_l"), images()
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert "crosslayer." not in exported.graph_module.code
    torch.testing.assert_close(exported.module()(x[:1])[0], model(x[:1])[0])
