"""What every mechanism must do in every backbone family; a new file in the folder is tested without a word here."""

import dataclasses

import pytest
import torch
from torch import Tensor

from crosslayer import create_model, list_mechanisms
from crosslayer.mechanisms import StageShape, lookup
from crosslayer.models import ResNet
from crosslayer.models.finished_states import finished_states

BACKBONES = ["cifar_resnet20", "cifar_resnet20_basic"]

every_mechanism = pytest.mark.parametrize("mechanism", list_mechanisms())
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)


def model_of(backbone: str, mechanism: str, seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return create_model(backbone, mechanism, num_classes=7)


def images(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def warmed(model: ResNet) -> ResNet:
    """In evaluation mode, with running statistics that images have left behind."""
    with torch.no_grad():
        for _ in range(30):
            model(images(8, 3, 16, 16))
    return model.eval()


@every_mechanism
@every_backbone
@pytest.mark.parametrize("size", [(32, 32), (17, 23), (9, 40)])
def test_any_input_size(backbone: str, mechanism: str, size: tuple[int, int]):
    model = model_of(backbone, mechanism)
    assert model(images(2, 3, *size)).shape == (2, 7)
    assert model.eval()(images(1, 3, *size)).shape == (1, 7)


@every_mechanism
@every_backbone
def test_batch_of_one_trains(backbone: str, mechanism: str):
    model = model_of(backbone, mechanism)
    model(images(1, 3, 32, 32)).square().mean().backward()


@every_mechanism
@every_backbone
def test_every_parameter_gets_a_finite_gradient(backbone: str, mechanism: str):
    model = model_of(backbone, mechanism)
    model(images(4, 3, 16, 16)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@every_mechanism
@every_backbone
def test_mechanism_parameters_matter(backbone: str, mechanism: str):
    """Every parameter tensor of a mechanism has a gradient somewhere: none is along for the ride."""
    model = model_of(backbone, mechanism)
    for stage in model.stages:  # a start at zero may hide what lies behind it
        for parameter in stage.mechanism.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    for seed in range(2):
        model(images(4, 3, 16, 16, seed=seed)).square().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.any()]
    # One layer's softmax is 1 whatever its query: the first block's query cannot matter in the B forms.
    assert all(".projections.0.query" in name for name in still), still


@every_mechanism
@every_backbone
def test_evaluation_is_independent_of_the_batch(backbone: str, mechanism: str):
    model = warmed(model_of(backbone, mechanism)).double()
    x = images(6, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        whole = model(x)
        order = torch.tensor([3, 5, 0, 1, 4, 2])
        torch.testing.assert_close(model(x[order]), whole[order], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(torch.cat([model(x[:1]), model(x[1:])]), whole, rtol=1e-9, atol=1e-9)


@every_mechanism
@every_backbone
def test_state_dict_round_trip(backbone: str, mechanism: str):
    model, other = warmed(model_of(backbone, mechanism)), model_of(backbone, mechanism, seed=9).eval()
    other.load_state_dict(model.state_dict())
    x = images(2, 3, 16, 16)
    assert torch.equal(model(x), other(x))


@every_mechanism
@every_backbone
def test_memory_format_and_dtype_are_kept(backbone: str, mechanism: str):
    model = warmed(model_of(backbone, mechanism))
    x = images(2, 3, 16, 16)
    last = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    features = last.forward_features(x.to(memory_format=torch.channels_last))
    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x), last(x), rtol=1e-3, atol=1e-3)
    half = model.bfloat16()
    assert half(x.bfloat16()).dtype == torch.bfloat16


@every_mechanism
@every_backbone
def test_autocast_trains_close_to_full_precision(backbone: str, mechanism: str):
    model = model_of(backbone, mechanism)
    x = images(8, 3, 16, 16)
    full = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        features = model.forward_features(x)
        mixed = model(x)
    assert features.dtype == torch.bfloat16
    assert (mixed.float() - full).norm() < 0.1 * full.norm()
    mixed.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@every_mechanism
@every_backbone
def test_state_is_passed_not_kept(backbone: str, mechanism: str):
    """Two passes over the same images agree: nothing of the first is left on the module."""
    model = warmed(model_of(backbone, mechanism))
    x = images(3, 3, 16, 16)
    assert torch.equal(model(x), model(x))
    assert all(not isinstance(value, Tensor) for stage in model.stages for value in vars(stage.mechanism).values())


@every_mechanism
def test_parameters_are_those_of_the_backbone_and_of_its_stages(mechanism: str):
    plain = create_model("cifar_resnet20", "none", num_classes=10)
    model = create_model("cifar_resnet20", mechanism, num_classes=10)
    registration = lookup(mechanism)
    config = registration.config()
    own = [
        registration.mechanism(StageShape(i, 2, c, (c // 4, c // 4, c), last=i == 2, small_images=True), config)
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


@every_mechanism
def test_attention_rows_sum_to_one_over_earlier_blocks(mechanism: str):
    model = warmed(model_of("cifar_resnet29", mechanism))
    with finished_states(model) as finished:
        model(images(2, 3, 16, 16))
    own, state = finished[0]
    attention = own.attention(state)
    if attention is None:
        assert not mechanism.startswith(("dla_", "mrla_"))
        return
    assert attention.shape[0] == 2
    assert attention.shape[2:] == (3, 3)
    torch.testing.assert_close(attention.sum(3), torch.ones_like(attention[..., 0]))
    assert not attention.triu(1).any()
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
@every_mechanism
@every_backbone
def test_compiles_as_one_graph(backbone: str, mechanism: str):
    model = warmed(model_of(backbone, mechanism))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = images(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
    model.train()
    compiled(x).square().mean().backward()
    of_compiled = [p.grad for p in model.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in of_compiled)


@pytest.mark.compiled
@every_mechanism
@every_backbone
def test_exports_with_any_batch_size(backbone: str, mechanism: str):
    model = warmed(model_of(backbone, mechanism))
    x = images(4, 3, 17, 15)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(exported.module()(x[:3]), model(x[:3]))


@pytest.mark.compiled
@pytest.mark.slow
def test_inductor_trains_and_agrees():
    model = model_of("cifar_resnet20", "dla_l")
    compiled = torch.compile(model, fullgraph=True)
    x = images(4, 3, 16, 16)
    y = compiled(x)
    torch.testing.assert_close(y, model(x), rtol=1e-3, atol=1e-3)
    y.square().mean().backward()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@every_mechanism
@every_backbone
def test_cuda_agrees_with_the_cpu(backbone: str, mechanism: str):
    model = warmed(model_of(backbone, mechanism)).double()
    x = images(3, 3, 17, 16, dtype=torch.float64)
    on_cpu = model(x)
    torch.testing.assert_close(model.cuda()(x.cuda()).cpu(), on_cpu, rtol=1e-9, atol=1e-9)
