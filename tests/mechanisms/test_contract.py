"""What every mechanism must do in every backbone family; a new file in the folder is tested without a word here."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from crosslayer import create_model, graft, list_mechanisms
from crosslayer.mechanisms import Mechanism, StageShape, lookup
from crosslayer.mechanisms.depth_pass import capture_states
from crosslayer.mechanisms.interface import overrides
from crosslayer.models.blocks import Stage
from crosslayer.models.grafted_stage import GraftedStage
from tests.mechanisms.hosts import CLASSES, HOSTS, RESNET_MECHANISMS, compiled_pairs, grafted_pairs, pairs

pytestmark = pytest.mark.sampled(3)

every_mechanism = pytest.mark.parametrize("mechanism", list_mechanisms())
every_mechanism_of_resnets = pytest.mark.parametrize("mechanism", RESNET_MECHANISMS)
every_compiled_pair = pytest.mark.parametrize(("host", "mechanism"), compiled_pairs())
every_pair = pytest.mark.parametrize(("host", "mechanism"), pairs())


def model_of(host: str, mechanism: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return HOSTS[host].build(mechanism)


def warmed(host: str, mechanism: str, seed: int = 0) -> nn.Module:
    """In evaluation mode, with running statistics that images have left behind."""
    model = model_of(host, mechanism, seed)
    with torch.no_grad():
        for i in range(12):
            model(HOSTS[host].images(4, seed=i))
    return model.eval()


def woken(model: nn.Module) -> nn.Module:
    """With large random numbers in mechanisms and scales, and no idle branch: zeros hide what lies behind them."""
    for parameter in model.parameters():
        if parameter.ndim == 1 and not parameter.any():
            nn.init.normal_(parameter)
    for module in model.modules():
        if isinstance(module, GraftedStage | Stage):
            own = [module.mechanism, getattr(module, "scales", None)]
            for parameter in (p for part in own if part is not None for p in part.parameters()):
                nn.init.normal_(parameter, std=0.5)
    return model


@every_pair
def test_any_input_size(host: str, mechanism: str):
    model = woken(model_of(host, mechanism))
    for size in HOSTS[host].sizes:
        assert model.train()(torch.randn(2, 3, *size)).shape == (2, CLASSES)
        assert model.eval()(torch.randn(1, 3, *size)).shape == (1, CLASSES)


@every_pair
def test_batch_of_one_trains(host: str, mechanism: str):
    model_of(host, mechanism)(HOSTS[host].images(1)).square().mean().backward()


@every_pair
def test_every_parameter_gets_a_finite_gradient(host: str, mechanism: str):
    model = model_of(host, mechanism)
    model(HOSTS[host].images(4)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@every_pair
def test_mechanism_parameters_matter(host: str, mechanism: str):
    """Every parameter tensor of a mechanism has a gradient for some weights and images: none is along for the ride."""
    still: set[str] = {"not yet tried"}
    for seed in range(8):  # a squeeze to one number may be dead by chance
        model = woken(model_of(host, mechanism, seed))
        model(HOSTS[host].images(4, seed)).square().mean().backward()
        own = [(name, p) for name, p in model.named_parameters() if ".mechanism." in name or ".scales." in name]
        idle = {name for name, p in own if p.grad is None or not p.grad.any()}
        still = idle if seed == 0 else still & idle
    unused: set[str] = set()
    for path, stage in model_of(host, mechanism).named_modules():
        if isinstance(stage, GraftedStage | Stage):
            keeps = stage.walk.keeps_shape if isinstance(stage, GraftedStage) else ()
            alone = [t for t, shortcut in enumerate(keeps) if not shortcut]
            names = stage.mechanism.unused_parameters(unread=HOSTS[host].unread, no_shortcut=alone)
            unused |= {f"{path}.mechanism.{name}" for name in names}
    assert not {name for name in still - unused if not name.endswith(tuple(f".scales.{t}" for t in HOSTS[host].unread))}


@every_pair
def test_evaluation_is_independent_of_the_batch(host: str, mechanism: str):
    model = woken(warmed(host, mechanism)).double()
    x = HOSTS[host].images(4, dtype=torch.float64)
    with torch.no_grad():
        whole = model(x)
        order = torch.tensor([3, 0, 1, 2])
        torch.testing.assert_close(model(x[order]), whole[order], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(torch.cat([model(x[:1]), model(x[1:])]), whole, rtol=1e-9, atol=1e-9)


@every_pair
def test_state_dict_round_trip(host: str, mechanism: str):
    model, other = woken(warmed(host, mechanism)), model_of(host, mechanism, seed=9).eval()
    other.load_state_dict(model.state_dict())
    x = HOSTS[host].images(2)
    assert torch.equal(model(x), other(x))


@every_pair
def test_memory_format_and_dtype_are_kept(host: str, mechanism: str):
    model, x = woken(warmed(host, mechanism)), HOSTS[host].images(2)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    features = last.forward_features(x.to(memory_format=torch.channels_last))
    assert not HOSTS[host].maps or features.is_contiguous(memory_format=torch.channels_last)
    exact = copy.deepcopy(model).double()(x.double())  # large random numbers are no matter of single precision
    torch.testing.assert_close(last.double()(x.double()), exact, rtol=1e-6, atol=1e-6)
    assert model.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@every_pair
def test_autocast_trains_close_to_full_precision(host: str, mechanism: str):
    model, plain, x = model_of(host, mechanism), model_of(host, "none"), HOSTS[host].images(8)
    full, full_plain = model(x), plain(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.forward_features(x).dtype == plain.forward_features(x).dtype
        mixed, mixed_plain = model(x), plain(x)
    of_backbone = (mixed_plain.float() - full_plain).norm() / full_plain.norm()
    assert (mixed.float() - full).norm() < (0.1 + of_backbone) * full.norm()
    mixed.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@every_pair
def test_state_is_passed_not_kept(host: str, mechanism: str):
    """Two passes over the same images agree: nothing of the first is left on the module."""
    model, x = woken(warmed(host, mechanism)), HOSTS[host].images(3)
    assert torch.equal(model(x), model(x))
    own = [module for module in model.modules() if isinstance(module, Mechanism)]
    assert all(not isinstance(value, Tensor) for module in own for value in vars(module).values())


@pytest.mark.parametrize(("host", "mechanism"), grafted_pairs())
def test_graft_starts_as_identity_and_adds_what_it_says(host: str, mechanism: str):
    plain = warmed(host, "none")
    x = HOSTS[host].images(2)
    grafted = graft(plain, mechanism)
    assert torch.equal(grafted(x), plain(x))
    names = dict(plain.named_parameters())
    assert all(torch.equal(parameter, names[name]) for name, parameter in grafted.named_parameters() if name in names)
    own = 0
    registration, layout = lookup(mechanism), "maps" if HOSTS[host].maps else "tokens"
    stages = [module for module in grafted.modules() if isinstance(module, GraftedStage)]
    for index, stage in enumerate(stages):
        depth, last = len(stage), index == len(stages) - 1
        shape = StageShape(index, depth, stage.channels, last=last, layout=layout)
        alone = registration.mechanism(shape, registration.config())
        scaled = not alone.starts_as_identity or overrides(alone, "read") or overrides(alone, "join")
        own += count(alone) + stage.channels * sum(alone.acts_on(t) for t in range(depth)) * scaled
    assert count(grafted) == count(plain) + own


@every_mechanism_of_resnets
def test_parameters_are_those_of_the_backbone_and_of_its_stages(mechanism: str):
    plain = create_model("cifar_resnet20", "none", num_classes=10)
    model = create_model("cifar_resnet20", mechanism, num_classes=10)
    registration = lookup(mechanism)
    config = registration.config()
    own = [
        registration.mechanism(StageShape(i, 2, c, (c // 4, c // 4), last=i == 2, small_images=True), config)
        for i, c in enumerate((64, 128, 256))
    ]
    read = sum(own[0].extra_in * stage.blocks[0].conv1.out_channels * len(stage.blocks) for stage in plain.stages)
    head = own[-1].extra_out * 10
    replaced = sum(
        count(m.convolution(t, conv.in_channels, conv.out_channels, conv.stride[0])) - count(conv)
        for m, stage in zip(own, plain.stages, strict=True)
        for t, conv in enumerate(block.conv2 for block in stage.blocks)
    )
    assert count(model) == count(plain) + sum(count(m) for m in own) + read + head + replaced


@every_mechanism_of_resnets
def test_attention_rows_sum_to_one_over_earlier_blocks(mechanism: str):
    model = create_model("cifar_resnet29", mechanism, num_classes=2).eval()
    with capture_states() as captured:
        model(torch.randn(2, 3, 16, 16))
    own, state = captured[0]
    attention = own.attention(state)
    if attention is None:
        assert not mechanism.startswith(("dla_", "mrla_"))
        return
    assert attention.shape[0] == 2
    rows, columns = attention.shape[2:]
    assert rows == 2 + (mechanism != "delta_attnres"), "its first block has nothing to look back at"
    assert columns - rows == (mechanism in ("attnres", "delta_attnres", "denseformer")), "the stage's input"
    assert not attention.triu(1 + columns - rows).any()
    torch.testing.assert_close(attention.sum(3), torch.ones_like(attention[..., 0]))
    assert (attention >= 0).all()


@every_mechanism
def test_every_option_is_typed_documented_and_checked(mechanism: str):
    config = lookup(mechanism).config
    for field in dataclasses.fields(config):
        assert field.default is not dataclasses.MISSING, field.name
    with pytest.raises(ValueError, match="has no option 'no_such_option'"):
        create_model("cifar_resnet20", mechanism, num_classes=2, no_such_option=1)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.compiled
@every_compiled_pair
def test_compiles_as_one_graph(host: str, mechanism: str):
    """In training, where there is more to trace; evaluation is what is exported."""
    model, x = model_of(host, mechanism), HOSTS[host].images(3)
    eager = copy.deepcopy(model)
    y = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(y, eager(x))
    y.square().mean().backward()
    of_compiled = [p.grad for p in model.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in of_compiled)


@pytest.mark.compiled
@every_compiled_pair
def test_exports_with_any_batch_size(host: str, mechanism: str):
    model, x = warmed(host, mechanism), HOSTS[host].images(4)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(exported.module()(x[:3]), model(x[:3]))


@pytest.mark.compiled
@pytest.mark.exhaustive
def test_inductor_trains_and_agrees():
    model, x = model_of("cifar_resnet20", "dla_l"), HOSTS["cifar_resnet20"].images(4)
    compiled = torch.compile(model, fullgraph=True)
    y = compiled(x)
    torch.testing.assert_close(y, model(x), rtol=1e-3, atol=1e-3)
    y.square().mean().backward()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@every_pair
def test_cuda_agrees_with_the_cpu(host: str, mechanism: str):
    model, x = woken(warmed(host, mechanism)).double(), HOSTS[host].images(3, dtype=torch.float64)
    on_cpu = model(x)
    torch.testing.assert_close(model.cuda()(x.cuda()).cpu(), on_cpu, rtol=1e-9, atol=1e-9)
