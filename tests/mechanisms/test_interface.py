"""Registration, and a mechanism that uses every hook in blocks that know nothing of it."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from crosslayer import create_model, list_mechanisms
from crosslayer.mechanisms import Mechanism, StageShape, configure, register
from crosslayer.mechanisms.registry import _REGISTRY, lookup


class Seen(NamedTuple):
    blocks: list[str]
    carried: Tensor


class EveryHook(Mechanism[Seen]):
    """Reads two more channels, looks inside, gates, merges, and hands three channels to the classifier."""

    extra_in = 2
    extra_out = 3

    def __init__(self, shape: StageShape, config: Any) -> None:
        super().__init__(shape, config)
        self.shape = shape
        self.scale = nn.Parameter(torch.ones(shape.channels, 1, 1))

    def start(self, x: Tensor, carry: dict[str, list[Tensor]] | None) -> Seen:
        assert (carry is None) == (self.shape.index == 0)
        before = x.new_zeros(len(x), 3, 1, 1) if carry is None else carry["any nest"][0]
        return Seen(["start"], before.mean((2, 3), keepdim=True))

    def read(self, t: int, x: Tensor, state: Seen) -> tuple[Tensor, Seen]:
        return torch.cat([x, x[:, :2]], 1), Seen([*state.blocks, f"read {t}"], state.carried)

    def inside(self, t: int, inner: tuple[Tensor, ...], state: Seen) -> Seen:
        assert tuple(tap.shape[1] for tap in inner) == self.shape.inner_channels
        return Seen([*state.blocks, f"inside {t}"], state.carried)

    def gate(self, t: int, branch: Tensor, state: Seen) -> tuple[Tensor, Seen]:
        return branch * self.scale, Seen([*state.blocks, f"gate {t}"], state.carried)

    def merge(self, t: int, out: Tensor, shortcut: Tensor, state: Seen) -> tuple[Tensor, Seen]:
        assert out.shape == shortcut.shape
        carried = state.carried + out[:, :3].mean((2, 3), keepdim=True)
        return out, Seen([*state.blocks, f"merge {t}"], carried)

    def finish(self, state: Seen) -> Any:
        calls = [f"{hook} {t}" for t in range(2) for hook in ("read", "inside", "gate", "merge")]
        assert state.blocks == ["start", *calls]
        return state.carried.expand(-1, -1, 4, 4) if self.shape.last else {"any nest": [state.carried]}


@pytest.fixture
def every_hook():
    register("every_hook", EveryHook)
    yield "every_hook"
    del _REGISTRY["every_hook"]


def test_a_mechanism_may_use_every_hook(every_hook: str):
    model = create_model("cifar_resnet20", every_hook, num_classes=5)
    assert every_hook in list_mechanisms()
    assert model.fc.in_features == 256 + 3
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_hook_takes_what_it_is_called_with():
    class Short(Mechanism[None]):
        def merge(self, t, out, state):
            return out, state

    with pytest.raises(
        ValueError, match=r"its merge takes \(self, t, out, state\), and is called with \(self, t, out, "
    ):
        register("short", Short)
    assert "short" not in list_mechanisms()


def test_a_name_is_given_once(every_hook: str):
    with pytest.raises(ValueError, match="already registered"):
        register(every_hook, EveryHook)


def test_unknown_names_offer_the_closest():
    with pytest.raises(ValueError, match=r"unknown mechanism 'dla_1'; did you mean dla_l"):
        lookup("dla_1")
    with pytest.raises(ValueError, match=r"unknown backbone 'cifar_resnet22'; did you mean cifar_resnet2"):
        create_model("cifar_resnet22", num_classes=2)
    with pytest.raises(ValueError, match="has no option 'reduce'; it has: reduction"):
        configure("se", {"reduce": 2})


def test_every_mechanism_is_described_by_its_own_file():
    files = {lookup(name).module for name in list_mechanisms()}
    assert len(files) == len(list_mechanisms())
