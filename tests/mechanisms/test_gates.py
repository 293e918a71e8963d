"""Attention within one block or map, against its equation written out, and what a fresh one does."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from crosslayer import create_model
from crosslayer.mechanisms import Mechanism, StageShape, configure, lookup
from crosslayer.mechanisms.a2 import DoubleAttentionBlock
from crosslayer.mechanisms.aa import AugmentedConvolution, by_place, resized
from crosslayer.mechanisms.nl import NonLocalBlock


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(module: nn.Module) -> nn.Module:
    """In float64 and evaluation mode, with parameters and running statistics that are all different."""
    for i, tensor in enumerate([*module.parameters(), *module.buffers()]):
        if tensor.is_floating_point():
            tensor.data = numbers(*tensor.shape, seed=i).abs() + 0.1 if tensor.dim() == 1 else numbers(*tensor.shape)
    return module.double().eval()


def built(name: str, index: int = 1, *, last: bool = False, small: bool = False, **options: object) -> Mechanism[None]:
    shape = StageShape(index, 2, 32, (8, 8), last, small)
    return lookup(name).mechanism(shape, configure(name, options))


def pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1×1 convolution of one vector."""
    y = conv.weight.flatten(1) @ x
    return y if conv.bias is None else y + conv.bias


def normalised(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """BN of channels × positions in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale[:, None] * (x - norm.running_mean[:, None]) + norm.bias[:, None]


def test_cbam_is_its_equations():
    mechanism = randomised(built("cbam", reduction=4))
    u = numbers(2, 32, 5, 7)
    out, _ = mechanism.gate(0, u, None)
    gates = mechanism.gates[0]
    fc1, fc2, conv, norm = gates.channel.fc1, gates.channel.fc2, gates.spatial.conv.conv, gates.spatial.conv.bn
    for image, made in zip(u, out, strict=True):
        pooled = [image.flatten(1).mean(1), image.flatten(1).max(1).values]
        channel = torch.sigmoid(sum(pointwise(fc2, pointwise(fc1, v).clamp(min=0)) for v in pooled))
        scaled = image * channel[:, None, None]
        summary = nn.functional.pad(torch.stack([scaled.mean(0), scaled.max(0).values]), (3, 3, 3, 3))
        logits = [(conv.weight[0] * summary[:, i : i + 7, j : j + 7]).sum() for i in range(5) for j in range(7)]
        spatial = torch.sigmoid(normalised(norm, torch.stack(logits)[None]).reshape(5, 7))
        assert_close(made, scaled * spatial, rtol=1e-9, atol=1e-9)


def test_cbam_starts_as_released():
    """The spatial gate is one half everywhere."""
    mechanism = built("cbam").eval()
    u = numbers(2, 32, 4, 4).float()
    assert_close(mechanism.gate(0, u, None)[0], mechanism.gates[0].channel(u) / 2)
    assert mechanism.gates[0].spatial.conv.bn.momentum == 0.01


def test_gc_is_its_equation():
    mechanism = randomised(built("gc", reduction=4))
    u = numbers(2, 32, 5, 3)
    out, _ = mechanism.gate(1, u, None)
    block = mechanism.contexts[1]
    transform = block.mlp_add
    for image, made in zip(u.flatten(2), out.flatten(2), strict=True):
        weights = torch.stack([pointwise(block.conv_attn, x)[0] for x in image.T]).exp()
        context = sum(w * x for w, x in zip(weights / weights.sum(), image.T, strict=True))
        z = pointwise(transform.fc1, context)
        z = (z - z.mean()) / (z.var(correction=0) + 1e-5).sqrt() * transform.norm.weight + transform.norm.bias
        assert_close(made, image + pointwise(transform.fc2, z.clamp(min=0))[:, None], rtol=1e-9, atol=1e-9)


def test_nl_is_its_equations():
    block = randomised(NonLocalBlock(8, 4))
    x = numbers(2, 8, 3, 5)
    for image, made in zip(x.flatten(2), block(x).flatten(2), strict=True):
        queries, keys, values = (
            [pointwise(conv, v) for v in image.T] for conv in (block.query, block.key, block.value)
        )
        y = []
        for query in queries:
            weights = torch.stack([query @ key / 2 for key in keys]).exp()
            y.append(sum(w * v for w, v in zip(weights / weights.sum(), values, strict=True)))
        projected = torch.stack([pointwise(block.project, v) for v in y], dim=1)
        assert_close(made, image + normalised(block.norm, projected), rtol=1e-9, atol=1e-9)


def test_a2_is_its_equations():
    block = randomised(DoubleAttentionBlock(16, configure("a2", {"attention_reduction": 8})))
    x = numbers(2, 16, 3, 5)
    for image, made in zip(x.flatten(2), block(x).flatten(2), strict=True):
        features, gathers, logits = (
            torch.stack([pointwise(conv, v) for v in image.T], dim=1)
            for conv in (block.features, block.gathers, block.distributes)
        )
        gathered = [sum(w * f for w, f in zip(row.exp() / row.exp().sum(), features.T, strict=True)) for row in gathers]
        z = [sum(w * g for w, g in zip(v.exp() / v.exp().sum(), gathered, strict=True)) for v in logits.T]
        projected = torch.stack([pointwise(block.project, v) for v in z], dim=1)
        assert_close(made, image + normalised(block.norm, projected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stride", [1, 2])
def test_aa_is_its_equations(stride: int):
    config = configure("aa", {"heads": 2, "least_key_channels": 3})
    layer = randomised(AugmentedConvolution(6, 40, stride, 9, config))
    x = numbers(2, 6, 5, 7)
    out = layer(x)
    assert_close(out[:, :-4], nn.functional.conv2d(x, layer.conv.weight, stride=stride, padding=1))
    pooled = x if stride == 1 else nn.functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    height, width = pooled.shape[2:]
    places = [(y, x) for y in range(height) for x in range(width)]
    rows, columns = resized(layer.row_offsets, height), resized(layer.column_offsets, width)
    for image, made in zip(pooled.flatten(2), out[:, -4:].flatten(2), strict=True):
        of_heads = []
        for head in range(2):
            projected = [pointwise(layer.project, v).reshape(2, -1)[head] for v in image.T]
            queries, keys, values = zip(
                *(p.split([layer.keys, layer.keys, layer.values]) for p in projected), strict=True
            )
            seen = []
            for (y, x_), query in zip(places, queries, strict=True):
                moved = [
                    key + rows[other_y - y + height - 1] + columns[other_x - x_ + width - 1]
                    for (other_y, other_x), key in zip(places, keys, strict=True)
                ]
                weights = torch.stack([query @ key / math.sqrt(layer.keys) for key in moved]).softmax(0)
                seen.append(sum(w * v for w, v in zip(weights, values, strict=True)))
            of_heads.append(torch.stack(seen, dim=1))
        combined = layer.combine.weight.flatten(1) @ torch.cat(of_heads)
        assert_close(made, combined, rtol=1e-9, atol=1e-9)


def test_aa_embeddings_fit_any_map():
    table = numbers(13, 4)  # of a map of seven rows
    assert resized(table, 7) is table
    assert_close(resized(table, 4), table[::2])  # half as many rows: every second offset
    assert_close(resized(table, 1), table[6:7])  # a single row is at offset 0
    for size in (2, 5, 20):
        other = resized(table, size)
        assert len(other) == 2 * size - 1
        assert_close(other[[0, size - 1, -1]], table[[0, 6, -1]])
    assert_close(by_place(table)[2, 5], table[6 + 3])


def test_aa_has_the_channels_of_the_paper():
    """At least 20 channels per head for the keys, a tenth of the outputs for the values."""
    for width, keys, values in ((128, 20, 2), (256, 20, 3), (512, 20, 6), (1024, 26, 13)):
        layer = AugmentedConvolution(64, width, 1, 14, configure("aa", {}))
        assert (layer.heads, layer.keys, layer.values) == (8, keys, values)
    assert AugmentedConvolution(64, 8, 1, 14, configure("aa", {})).heads == 2, "where there is no room for eight"


@pytest.mark.parametrize("backbone", ["cifar_resnet20", "cifar_resnet20_basic"])
@pytest.mark.parametrize("mechanism", ["gc", "nl", "a2"])
def test_a_fresh_one_changes_nothing(mechanism: str, backbone: str):
    plain = create_model(backbone, num_classes=3).eval()
    model = create_model(backbone, mechanism, num_classes=3).eval()
    missing, surplus = model.load_state_dict(plain.state_dict(), strict=False)
    assert missing
    assert not surplus
    x = numbers(2, 3, 17, 15).float()
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize(
    ("mechanism", "acting"), [("gc", [1, 2, 3]), ("nl", [2]), ("a2", [1, 2]), ("cbam", [0, 1, 2, 3])]
)
def test_stages_that_a_mechanism_acts_in(mechanism: str, acting: list[int]):
    own = [built(mechanism, index, last=index == 3) for index in range(4)]
    assert [i for i, m in enumerate(own) if any(True for _ in m.parameters())] == acting
    assert any(True for _ in built(mechanism, 0, last=True).parameters()), "a network of one stage has it there"


def test_nl_acts_before_the_last_block():
    mechanism = built("nl", 2)
    nn.init.ones_(mechanism.block.norm.weight)
    x = numbers(2, 32, 4, 4).float()
    assert not torch.equal(mechanism.merge(0, x, x, None)[0], x)
    assert torch.equal(mechanism.merge(1, x, x, None)[0], x)


@pytest.mark.parametrize(
    ("mechanism", "option", "value", "sentence"),
    [
        ("cbam", "reduction", 0, "reduction is 0; it divides"),
        ("cbam", "kernel_size", 4, "kernel_size is 4; it must be odd"),
        ("gc", "stages", (), "name at least one"),
        ("gc", "reduction", -1, "reduction is -1"),
        ("nl", "reduction", 0, "reduction is 0"),
        ("nl", "stages", (-1,), "name at least one"),
        ("a2", "feature_reduction", 0, "feature_reduction is 0"),
        ("aa", "heads", 0, "heads is 0; it must be at least 1"),
        ("aa", "value_ratio", 1.0, "value_ratio is 1.0"),
        ("aa", "key_ratio", -0.5, "key_ratio is -0.5"),
        ("aa", "value_ratio", 0.99, "value_ratio is 0.99; it leaves"),
    ],
)
def test_bad_options_are_told(mechanism: str, option: str, value: object, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        create_model("cifar_resnet20", mechanism, num_classes=2, **{option: value})
