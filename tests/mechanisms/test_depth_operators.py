"""The operators of mechanisms along depth against the vectors of their public references, to 1e-12."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from crosslayer import create_model
from crosslayer.mechanisms import Mechanism, StageShape, configure, lookup
from crosslayer.mechanisms.depth_attention import EPS, DepthAttention
from crosslayer.mechanisms.hc import Config as HCConfig
from crosslayer.mechanisms.hc import HyperConnection
from crosslayer.mechanisms.mhc import Config as MHCConfig
from crosslayer.mechanisms.mhc import ConstrainedConnection, SinkhornConnection
from crosslayer.mechanisms.mhc_lite import Config as MHCLiteConfig
from crosslayer.mechanisms.mhc_lite import PermutationConnection
from crosslayer.mechanisms.streams import Connection
from crosslayer.ops.depth import rms_product, softmax_over_depth, weighted_sum
from tests.conftest import shared

pytestmark = pytest.mark.sampled(2)

NEW = ("attnres", "ddl", "delta_attnres", "denseformer", "hc", "laurel", "mhc", "mhc_lite", "xattnres")


def golden(name: str) -> Any:
    root = shared()
    folders = [p for p in (root / "golden", root.parent / "golden") if (p / "depth_operators.json").exists()]
    if not folders:
        pytest.skip("depth_operators.json is not there")
    return json.loads((folders[0] / "depth_operators.json").read_text())[name]


def tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def close(ours: Tensor, theirs: Any) -> None:
    theirs = tensor(theirs)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()


def built(mechanism: str, depth: int, channels: int, **options: Any) -> Mechanism[Any]:
    """One mechanism in the last stage of a transformer."""
    config = configure(mechanism, options)
    return lookup(mechanism).mechanism(StageShape(0, depth, channels, last=True, layout="tokens"), config)


def as_map(tokens: Tensor) -> Tensor:
    """Batch × tokens × channels as a map of one column."""
    return tokens.transpose(-1, -2).unsqueeze(-1)


@pytest.mark.parametrize("group", [1, 2])
def test_attention_residuals(group: int):
    """The stream after the last block, where earlier queries are not asked: alone, and as the sum of two branches."""
    case = golden("attnres")
    sources = tensor(case["sources"]).requires_grad_()
    mechanism = built("attnres", (len(sources) - 1) * group, sources.shape[2], group=group).double()
    attention: DepthAttention = mechanism.get_submodule("over_depth")  # pyright: ignore[reportAssignmentType]
    with torch.no_grad():
        attention.queries[-1].copy_(tensor(case["query"]))
        attention.norms[-1].copy_(tensor(case["rms_weight"]))
    branches = [part for source in sources[1:] for part in ([source] if group == 1 else [0.25 * source, 0.75 * source])]
    out, state = sources[0], mechanism.start(sources[0], None)
    for t, branch in enumerate(branches):
        out, state = mechanism.join(t, branch, sources[0], state, torch.add)
    close(out, case["out"])
    out.square().sum().backward()
    assert attention.queries[-1].grad is not None
    assert attention.norms[-1].grad is not None
    assert sources.grad is not None
    close(attention.queries[-1].grad, case["grad_query"])
    close(attention.norms[-1].grad, case["grad_rms_weight"])
    close(sources.grad, case["grad_sources"])


def test_a_query_per_position_is_the_same_operator():
    case = golden("attnres")
    sources, query = tensor(case["sources"]), tensor(case["query"])
    everywhere = query[None, :, None, None].expand(2, -1, 3, 4)
    logits = [rms_product(everywhere, tensor(case["rms_weight"]), source, EPS) for source in sources]
    close(weighted_sum(softmax_over_depth(logits), list(sources)), case["out"])


def test_delta_attention_residuals():
    plain, case = golden("attnres"), golden("delta_attnres")
    sources, stream = tensor(plain["sources"]), as_map(tensor(case["stream"]))
    sources = sources.flatten(3).reshape(4, 2, 6, 12, 1)
    mechanism = built("delta_attnres", len(sources), 6, gate="none").double()
    attention: DepthAttention = mechanism.get_submodule("over_depth")  # pyright: ignore[reportAssignmentType]
    with torch.no_grad():
        attention.queries[-1].copy_(tensor(plain["query"]))
        attention.norms[-1].copy_(tensor(plain["rms_weight"]))
    state = mechanism.start(sources[0], None)
    for t, branch in enumerate(sources[1:]):
        out, state = mechanism.join(t, branch, sources[0], state, torch.add)
        torch.testing.assert_close(out, branch + sources[0], rtol=0, atol=0)
    read, _ = mechanism.read(len(sources) - 1, stream, state)
    close(read.squeeze(3).transpose(1, 2), case["out"])


@pytest.mark.parametrize("index", range(3))
def test_depth_weighted_average(index: int):
    case = golden("denseformer")[index]
    x, weights = tensor(case["x"]).requires_grad_(), [tensor(w) for w in case["W"]]
    options = {"dilation": case["dilation"], "period": case["period"]}
    mechanism = built("denseformer", len(weights), x.shape[-1], **options).double()
    own = dict(mechanism.named_parameters())
    alphas = {f"weights.{t}": tensor(alpha) for t, alpha in enumerate(case["alphas"]) if alpha is not None}
    assert {name: p.shape for name, p in own.items()} == {name: a.shape for name, a in alphas.items()}
    mechanism.load_state_dict(alphas)
    stream, state = as_map(x), mechanism.start(as_map(x), None)
    for t, w in enumerate(weights):
        assert mechanism.acts_on(t) == (f"weights.{t}" in alphas)
        block = torch.tanh(torch.einsum("bcpo,cd->bdpo", stream, w))
        stream, state = mechanism.merge(t, block, stream, state)
    out = stream.squeeze(3).transpose(1, 2)
    close(out, case["out"])
    out.square().sum().backward()
    assert x.grad is not None
    close(x.grad, case["grad_x"])


def connected(connection: Connection, streams: list[Tensor], branch: Any) -> list[Tensor]:
    """The streams after a block behind a connection."""
    coefficients = connection(streams)
    mixed = [weighted_sum(column, streams) for column in zip(*coefficients.mix, strict=True)]
    made = branch(weighted_sum(coefficients.read, streams))
    return [write * made + old for write, old in zip(coefficients.write, mixed, strict=True)]


def test_hyper_connections():
    case = golden("hyper_connections")
    connection, weight = HyperConnection(HCConfig(3), 6, 1, reads=True, eps=0.0).double(), tensor(case["branch_weight"])
    for numbers in ("init", "parameters"):
        theirs = {name: tensor(value) for name, value in case[numbers].items()}
        ours = {
            "read_mix": theirs["static_alpha"],
            "write": theirs["static_beta"],
            "norm": theirs["norm.gamma"].flatten() + 1,
            "read_mix_projection": theirs["dynamic_alpha_fn.weight"].flatten(1),
            "write_projection": theirs["dynamic_beta_fn.0.weight"].flatten(),
            "read_mix_scale": theirs["dynamic_alpha_scale"],
            "write_scale": theirs["dynamic_beta_scale"],
        }
        if numbers == "init":
            fresh = HyperConnection(HCConfig(3), 6, 1, reads=True).double().state_dict()
            assert fresh.keys() == ours.keys()
            for name, value in ours.items():
                torch.testing.assert_close(fresh[name], value, rtol=1e-7, atol=0)
        connection.load_state_dict(ours)
    streams = list(tensor(case["streams"]).unbind(1))
    out = connected(connection, streams, lambda x: torch.tanh(torch.einsum("bchw,cd->bdhw", x, weight)))
    close(torch.stack(out, 1), case["out"])


@pytest.mark.parametrize("name", ["mhc", "mhc_lite"])
def test_constrained_hyper_connections(name: str):
    case = golden(name)
    if name == "mhc":
        connection: ConstrainedConnection = SinkhornConnection(MHCConfig(3), 6, 1, reads=True, eps=0.0).double()
    else:
        connection = PermutationConnection(MHCLiteConfig(3), 6, 1, reads=True, eps=0.0).double()
    for numbers in ("init", "parameters"):
        theirs = {name: tensor(value) for name, value in case[numbers].items()}
        alpha, projection = theirs["static_alpha"], theirs["dynamic_alpha_fn"].T
        if name == "mhc":  # a column to read with, before each row of the matrix
            projection = projection.unflatten(0, (3, 4))
            alpha, projection = (torch.cat([a[:, 0], a[:, 1:].flatten(0, 1)]) for a in (alpha, projection))
        ours = {
            "read": alpha[:3],
            "mix": alpha[3:],
            "write": theirs["static_beta"],
            "norm": theirs["norm.gamma"] + 1,
            "projections.read": projection[:3],
            "projections.mix": projection[3:],
            "projections.write": theirs["dynamic_beta_fn"].T,
            "scales.read": theirs["pre_branch_scale"][0],
            "scales.mix": theirs["residual_scale"][0],
            "scales.write": theirs["h_post_scale"],
        }
        if numbers == "init":
            fresh = connection.state_dict()
            assert fresh.keys() == ours.keys()
            for key, value in ours.items():
                torch.testing.assert_close(fresh[key], value, rtol=1e-7, atol=0)
        connection.load_state_dict(ours)
    weight = tensor(case["branch_weight"])
    streams = [as_map(stream) for stream in tensor(case["streams"]).unbind(1)]
    out = connected(connection, streams, lambda x: torch.tanh(torch.einsum("bcpo,cd->bdpo", x, weight)))
    close(torch.stack([stream.squeeze(3).transpose(1, 2) for stream in out], 1), case["out"])


def branches(dtype: torch.dtype, depth: int = 4, channels: int = 8, scale: float = 1.0) -> list[Tensor]:
    """A stage's input and its blocks' branches, maps of 3×3."""
    generator = torch.Generator().manual_seed(0)
    return [scale * torch.randn(2, channels, 3, 3, generator=generator).to(dtype) for _ in range(depth + 1)]


def through(mechanism: Mechanism[Any], maps: list[Tensor]) -> Tensor:
    """The stage's output, where branches are what is read times fixed maps."""
    x, state = maps[0], mechanism.start(maps[0], None)
    for t, branch in enumerate(maps[1:]):
        read, state = mechanism.read(t, x, state)
        x, state = mechanism.join(t, torch.tanh(read / 1000) * branch, x, state, torch.add)
    return x


def randomised(mechanism: Mechanism[Any]) -> Mechanism[Any]:
    """With parameters from N(0, 1/4)."""
    generator = torch.Generator().manual_seed(1)
    for parameter in mechanism.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return mechanism


IDENTITY = [
    ("delta_attnres", {}),
    ("delta_attnres", {"group": 2}),
    ("denseformer", {}),
    ("denseformer", {"dilation": 2, "period": 2}),
    *[("hc", {"streams": n, "dynamic": dynamic}) for n in (1, 2, 3, 4) for dynamic in (True, False)],
    ("laurel", {}),
]


@pytest.mark.parametrize(("name", "options"), IDENTITY)
@pytest.mark.parametrize(("backbone", "unit"), [("cifar_resnet29", "block"), ("deit_tiny", "sublayer")])
def test_starts_exactly_as_the_plain_network(name: str, options: dict[str, Any], backbone: str, unit: Any):
    torch.manual_seed(0)
    plain = create_model(backbone, num_classes=3, unit=unit).eval()
    model = create_model(backbone, name, num_classes=3, unit=unit, **options).eval()
    loaded = model.load_state_dict(plain.state_dict(), strict=False)
    assert not loaded.unexpected_keys
    assert all(".mechanism." in key for key in loaded.missing_keys)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), plain(x))


def test_one_group_is_the_plain_sum_beside_the_input():
    """With equal weights, half of the plain stream."""
    maps = branches(torch.float64)
    mechanism, x = built("attnres", 4, 8, group=4).double(), maps[0]
    state = mechanism.start(x, None)
    for t, branch in enumerate(maps[1:]):
        x, state = mechanism.join(t, branch, maps[0] if t == 0 else x, state, torch.add)
    torch.testing.assert_close(x, sum(maps[1:], start=maps[0]) / 2)


def test_the_query_per_position_starts_as_an_average_that_counts_the_last_output_twice():
    maps = branches(torch.float64, depth=3)
    mechanism = built("xattnres", 4, 8).double()
    state = mechanism.start(maps[0], None)
    for t, out in enumerate(maps[1:]):
        read, state = mechanism.read(t, maps[t], state)
        torch.testing.assert_close(read, maps[t] if t < 2 else (maps[1] + 2 * maps[2]) / 3, rtol=1e-12, atol=0)
        _, state = mechanism.merge(t, out, maps[t], state)


def test_delta_learning_replaces_what_lies_along_the_branch():
    """At the start β = 1 and v = 2: the new stream's component along the branch is 2, all else is as it was."""
    shortcut, branch = branches(torch.float64, depth=1, scale=100)
    out, _ = built("ddl", 1, 8).double().join(0, branch, shortcut, None, torch.add)
    direction = branch / branch.norm(dim=1, keepdim=True)
    torch.testing.assert_close((direction * out).sum(1), torch.full((2, 3, 3), 2.0, dtype=torch.float64))
    change = out - shortcut
    torch.testing.assert_close(direction * (direction * change).sum(1, keepdim=True), change)


def test_mixing_is_doubly_stochastic():
    streams = branches(torch.float64, depth=2)
    for connection in (SinkhornConnection(MHCConfig(3), 8, 0, reads=False),
                       PermutationConnection(MHCLiteConfig(3), 8, 0, reads=False)):  # fmt: skip
        generator = torch.Generator().manual_seed(2)
        for parameter in connection.double().parameters():
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
        mix = torch.stack([torch.stack(list(row)) for row in connection(streams).mix])
        for axis in (0, 1):
            torch.testing.assert_close(mix.sum(axis), torch.ones_like(mix[0]))
        assert (mix >= 0).all()


# (mechanism, options, parameters of a block of c channels, what the first block of a stage of maps has less)
FORMULAS = [
    ("attnres", {}, "2*c", "0"),
    ("attnres", {"group": 3}, "2*c", "0"),
    ("attnres", {"query": "input"}, "c*c + c", "0"),
    ("delta_attnres", {}, "2*c + 1", "2*c + 1"),
    ("delta_attnres", {"gate": "none"}, "2*c", "2*c"),
    ("hc", {"streams": 4}, "n*n + 2*n + c*(n + 1) + 2*c + 2", "n + c"),
    ("hc", {"streams": 4, "dynamic": False}, "n*n + 2*n", "n"),
    ("mhc", {"streams": 4}, "n*c*(n + 1)**2 + n*n + 2*n + 3", "n*n*c + n + 1"),
    ("mhc_lite", {"streams": 4}, "n*c*(1 + 24 + 2*n) + 24 + 2*n + 3", "n*n*c + n + 1"),
    ("laurel", {"rank": 5}, "2*5*c", "2*5*c"),
    ("ddl", {}, "2*c + 2", "0"),
]


@pytest.mark.parametrize(("name", "options", "of_block", "first_less"), FORMULAS)
def test_parameters_per_block(name: str, options: dict[str, Any], of_block: str, first_less: str):
    for depth, c in ((2, 8), (5, 12)):
        mechanism = lookup(name).mechanism(StageShape(1, depth, c, last=True), configure(name, options))
        counted = sum(parameter.numel() for parameter in mechanism.parameters())
        assert counted == depth * eval(of_block, {"c": c, "n": 4}) - eval(first_less, {"c": c, "n": 4})


def test_parameters_of_depth_weighted_averages_and_of_queries_per_position():
    def count(name: str, depth: int, channels: int, **options: Any) -> int:
        return sum(parameter.numel() for parameter in built(name, depth, channels, **options).parameters())

    assert [count("denseformer", depth, 8) for depth in (1, 2, 6)] == [depth * (depth + 3) // 2 for depth in (1, 2, 6)]
    assert count("denseformer", 8, 8, dilation=4, period=2) == 1 + 2 + 2 + 3
    assert [count("xattnres", depth, 8) for depth in (1, 2, 3, 6)] == [m * (64 + 8) for m in (0, 0, 1, 4)]


EVERY = [
    *[(name, {}) for name in NEW],
    ("attnres", {"group": 2}),
    ("attnres", {"query": "input"}),
    ("delta_attnres", {"gate": "none"}),
    ("hc", {"dynamic": False}),
]


@pytest.mark.parametrize(("name", "options"), EVERY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_to_full(name: str, options: dict[str, Any], dtype: torch.dtype):
    """Of maps whose squares, and sums over many channels, half precision cannot hold."""
    maps = branches(torch.float32, channels=512, scale=500)
    mechanism = randomised(built(name, 4, 512, **options))
    for parameter in mechanism.parameters():
        parameter.data = parameter.data.mul(0.1).to(dtype).float()
    maps = [x.to(dtype).float() for x in maps]
    full = through(mechanism, maps)
    half = through(mechanism.to(dtype), [x.to(dtype) for x in maps])
    assert half.dtype == dtype
    assert half.isfinite().all()
    assert (half.float() - full).norm() < (0.02 if dtype == torch.float16 else 0.15) * full.norm()


@pytest.mark.parametrize(("name", "options"), EVERY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_zero_maps_give_finite_numbers_and_gradients(name: str, options: dict[str, Any], dtype: torch.dtype):
    mechanism = randomised(built(name, 4, 8, **options)).to(dtype)
    maps = [torch.zeros(1, 8, 2, 2, dtype=dtype, requires_grad=True) for _ in range(5)]
    x, state = maps[0], mechanism.start(maps[0], None)
    for t, branch in enumerate(maps[1:]):
        read, state = mechanism.read(t, x, state)
        x, state = mechanism.join(t, branch + 0 * read, x, state, torch.add)
    assert torch.equal(x, torch.zeros_like(x))
    x.sum().backward()
    for leaf in [*maps, *mechanism.parameters()]:
        assert leaf.grad is None or leaf.grad.isfinite().all()


@pytest.mark.mistyped
@pytest.mark.parametrize(("name", "options", "sentence"), [
    ("attnres", {"group": 0}, "group is 0"),
    ("attnres", {"query": "inputs"}, "unknown query 'inputs'; did you mean input"),
    ("delta_attnres", {"gate": "alfa"}, "unknown gate 'alfa'; did you mean alpha"),
    ("denseformer", {"period": 0}, "period 0; each must be at least 1"),
    ("hc", {"streams": 0}, "streams is 0"),
    ("mhc", {"iterations": 0}, "iterations is 0"),
    ("mhc_lite", {"streams": 7}, "5040 permutations"),
    ("laurel", {"rank": 0}, "rank is 0"),
])  # fmt: skip
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        configure(name, options)


def test_training_holds_for_options_that_the_contract_does_not_reach():
    for name, options in EVERY:
        model = create_model("cifar_resnet29", name, num_classes=2, **options)
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters()), name
