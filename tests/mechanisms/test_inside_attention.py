"""What looks inside attention: its equations against loops over heads and tokens, the plain network, and refusals."""

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from crosslayer import create_model, graft
from crosslayer.mechanisms import Mechanism, StageShape
from crosslayer.mechanisms.interface import ATTENTION_HOOKS, overrides
from crosslayer.mechanisms.mudd import MultiwayDenseConnections
from crosslayer.models.factory import mechanism_factory
from crosslayer.models.vit import layer_attention_vit
from tests.mechanisms.hosts import ATTENTION_MECHANISMS

HEADS, DIM, DEPTH = 2, 3, 4


def vit(seed: int = 0, **arguments: Any) -> VisionTransformer:
    """A small network of timm's in double precision."""
    torch.manual_seed(seed)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=HEADS * DIM, depth=DEPTH, num_heads=HEADS,
        num_classes=5, pretrained_cfg_overlay={"input_size": (3, 8, 8)}, **arguments,
    )  # fmt: skip
    assert isinstance(model, VisionTransformer)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)  # so that blocks do much
    return model.double().eval()


def published(mechanism: str, **options: Any) -> tuple[VisionTransformer, VisionTransformer, Mechanism[Any]]:
    """A plain network, its graft that acts in full, and the mechanism."""
    plain = vit()
    model = graft(plain, mechanism, start="published", **options)
    assert isinstance(model, VisionTransformer)
    return plain, model, model.blocks.mechanism


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def tokens_of(model: VisionTransformer, x: Tensor) -> Tensor:
    """What the first block is given."""
    return model.norm_pre(model._pos_embed(model.patch_embed(x)))


def qkv_of(attention: Attention, *inputs: Tensor) -> list[list[Tensor]]:
    """Queries, keys and values of one image by head, each projected from an input of its own."""
    parts = zip(inputs, attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
    return [[(x @ w.T + b)[:, h * DIM : (h + 1) * DIM] for h in range(HEADS)] for x, w, b in parts]


def after_attention(block: Any, x: Tensor, heads: list[Tensor]) -> Tensor:
    """A block's output from its heads' output on."""
    x = x + block.attn.proj(torch.cat(heads, dim=1))
    return x + block.mlp(block.norm2(x))


def classified(model: VisionTransformer, images_: list[Tensor]) -> Tensor:
    """Logits of what the last block puts out."""
    return model.forward_head(model.norm(torch.stack(images_)))


@pytest.mark.parametrize("gate", ["alpha", "none"])
def test_scores_are_carried_over_blocks(gate: str):
    plain, model, mechanism = published("revit", gate=gate)
    if gate == "alpha":
        nn.init.constant_(mechanism.alpha, 0.3)
    done = []
    for x in tokens_of(plain, images()):
        before: list[Tensor] = []
        for block in plain.blocks:
            q, k, v = qkv_of(block.attn, *[block.norm1(x)] * 3)
            scores = [q[h] @ k[h].T / DIM**0.5 for h in range(HEADS)]
            if before and gate == "alpha":
                scores = [0.3 * new + 0.7 * old for new, old in zip(scores, before, strict=True)]
            elif before:
                scores = [new + old for new, old in zip(scores, before, strict=True)]
            before = scores
            x = after_attention(block, x, [score.softmax(1) @ v[h] for h, score in enumerate(scores)])
        done.append(x)
    torch.testing.assert_close(model(images()), classified(plain, done), rtol=1e-12, atol=1e-12)
    assert (model(images()) - plain(images())).abs().max() > 0.01


@pytest.mark.parametrize("weight", [0.5, 0.2])
def test_values_are_means_with_the_first_blocks(weight: float):
    plain, model, _ = published("value_residual", weight=weight)
    done = []
    for x in tokens_of(plain, images()):
        first: list[Tensor] = []
        for block in plain.blocks:
            q, k, v = qkv_of(block.attn, *[block.norm1(x)] * 3)
            first = first or v
            mixed = v if first is v else [weight * old + (1 - weight) * new for new, old in zip(v, first, strict=True)]
            heads = [(q[h] @ k[h].T / DIM**0.5).softmax(1) @ mixed[h] for h in range(HEADS)]
            x = after_attention(block, x, heads)
        done.append(x)
    torch.testing.assert_close(model(images()), classified(plain, done), rtol=1e-12, atol=1e-12)
    assert (model(images()) - plain(images())).abs().max() > 0.01


def test_tokens_and_depth_share_a_softmax():
    plain, model, _ = published("moda")
    done = []
    for x in tokens_of(plain, images()):
        past: list[tuple[list[Tensor], list[Tensor]]] = []
        for block in plain.blocks:
            q, k, v = qkv_of(block.attn, *[block.norm1(x)] * 3)
            heads = [torch.zeros_like(x[:, :DIM]) for _ in range(HEADS)]
            for h in range(HEADS):
                for p in range(len(x)):
                    seen = [(k[h][m], v[h][m]) for m in range(len(x))]
                    seen += [(keys[h][p], values[h][p]) for keys, values in past]
                    powers = [torch.exp((q[h][p] * key).sum() / DIM**0.5) for key, _ in seen]
                    heads[h][p] = sum(power * value for power, (_, value) in zip(powers, seen, strict=True))
                    heads[h][p] /= sum(powers)
            past.append((k, v))
            x = after_attention(block, x, heads)
        done.append(x)
    torch.testing.assert_close(model(images()), classified(plain, done), rtol=1e-12, atol=1e-12)
    assert (model(images()) - plain(images())).abs().max() > 0.01


def test_queries_keys_values_and_stream_are_sums_over_what_came_before():
    plain, model, mechanism = published("mudd")
    for parameter in mechanism.parameters():
        nn.init.normal_(parameter, std=0.3)
    weights: Any = mechanism.get_submodule("weights")
    done = []
    for x in tokens_of(plain, images()):
        outs, ways = [x], [x] * 4
        for t, block in enumerate(plain.blocks):
            *inputs, stream = ways
            q, k, v = qkv_of(block.attn, *(block.norm1(way) for way in inputs))
            heads = [(q[h] @ k[h].T / DIM**0.5).softmax(1) @ v[h] for h in range(HEADS)]
            outs.append(after_attention(block, stream, heads))
            normed = outs[-1] / (outs[-1].square().mean(1, keepdim=True) + 1e-6).sqrt()
            hidden = nn.functional.gelu(normed @ weights[t].inner.T)
            made = hidden @ weights[t].outer.T + weights[t].bias
            ways = [
                sum(made[:, c * len(outs) + i, None] * out for i, out in enumerate(outs))
                for c in range(made.shape[1] // len(outs))
            ]
        assert len(ways) == 1
        done.append(ways[0])
    torch.testing.assert_close(model(images()), classified(plain, done), rtol=1e-12, atol=1e-12)
    assert (model(images()) - plain(images())).abs().max() > 0.01


def test_dense_connections_start_as_the_plain_network_and_learn():
    plain, model, mechanism = published("mudd")
    assert torch.equal(model(images()), plain(images()))
    assert [weights.inner.shape[0] for weights in MultiwayDenseConnections(StageShape(0, 16, 8), None).weights] == (
        [64] * 14 + [128] * 2
    )
    optimizer = torch.optim.SGD(mechanism.parameters(), lr=0.1)
    for _ in range(2):  # the inner matrices learn once the outer ones have
        optimizer.zero_grad()
        model(images()).square().mean().backward()
        optimizer.step()
    fresh = dict(published("mudd")[2].named_parameters())
    assert all(not torch.equal(parameter, fresh[name]) for name, parameter in mechanism.named_parameters())


@pytest.mark.parametrize("mechanism", ATTENTION_MECHANISMS)
def test_gradients_are_the_derivatives(mechanism: str):
    _, model, own = published(mechanism)
    for parameter in own.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = images().requires_grad_()
    loss = model(x).square().sum()
    parameters = [x, *own.parameters()]
    directions = [torch.randn_like(parameter) for parameter in parameters]
    gradients = torch.autograd.grad(loss, parameters)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    sides = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += step * direction
            sides.append(model(x).square().sum())
    torch.testing.assert_close(slope, (sides[0] - sides[1]) / 2e-6, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mechanism", ATTENTION_MECHANISMS)
@pytest.mark.parametrize("fused", [True, False])
def test_a_graft_is_the_plain_network_to_the_bit_either_way_timm_attends(mechanism: str, fused: bool):
    plain = vit(qk_norm=True, scale_attn_norm=True, proj_drop_rate=0.1, attn_drop_rate=0.1)
    for block in plain.blocks:
        block.attn.fused_attn = fused
    assert torch.equal(graft(plain, mechanism)(images()), plain(images()))


@pytest.mark.parametrize("mechanism", ATTENTION_MECHANISMS)
def test_masked_tokens_are_not_looked_at(mechanism: str):
    """With the patch at the end hidden from all others, what it shows is no matter to them."""
    _, model, _ = published(mechanism)
    x, other = tokens_of(model, images()), tokens_of(model, images())
    other[:, -1] += 1
    mask = torch.zeros(5, 5, dtype=torch.float64)
    mask[:, -1] = -torch.inf
    mask[-1, -1] = 0
    outs = []
    for tokens in (x, other):
        for block in model.blocks:
            tokens = block(tokens, attn_mask=mask)
        outs.append(tokens)
    assert torch.equal(outs[0][:, :-1], outs[1][:, :-1])
    assert not torch.equal(outs[0], outs[1])


@pytest.mark.parametrize("mechanism", ATTENTION_MECHANISMS)
def test_dropout_on_attention_is_the_networks(mechanism: str):
    plain = vit(attn_drop_rate=0.5)
    model = graft(plain, mechanism, start="published")
    assert torch.equal(model(images()), model(images()))
    assert not torch.equal(model.train()(images()), model(images()))


@pytest.mark.parametrize("mechanism", ATTENTION_MECHANISMS)
@pytest.mark.parametrize(
    ("backbone", "host"),
    [
        ("resnet18", "BasicBlock"),
        ("swin_tiny_patch4_window7_224", "SwinTransformerBlock"),
        ("beit_base_patch16_224", ""),
    ],
)
def test_grafts_without_that_attention_refuse(mechanism: str, backbone: str, host: str):
    small = {"depth": 2, "embed_dim": 24, "num_heads": 2} if "beit" in backbone else {}
    with pytest.raises(ValueError, match=f"looks inside attention, which .*{host} does not have"):
        graft(timm.create_model(backbone, **small), mechanism)


@pytest.mark.parametrize("mechanism", ATTENTION_MECHANISMS)
def test_own_networks_without_it_refuse(mechanism: str):
    for backbone, options in (("cifar_resnet20", {}), ("resnet18", {}), ("deit_tiny", {"unit": "sublayer"})):
        with pytest.raises(ValueError, match=r"looks inside attention, which a .* does not have"):
            create_model(backbone, mechanism, **options)
    assert any(overrides(type(own_of(mechanism)), hook) for hook in ATTENTION_HOOKS)


def own_of(mechanism: str) -> Mechanism[Any]:
    """The mechanism in a network of this project's."""
    return layer_attention_vit(64, 2, 3, mechanism_factory(mechanism, {})).get_submodule("blocks.mechanism")  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("mechanism", ATTENTION_MECHANISMS)
def test_attention_called_by_itself_is_a_sentence(mechanism: str):
    _, model, _ = published(mechanism)
    with pytest.raises(RuntimeError, match="was called by itself; it looks back"):
        model.blocks[1].attn(tokens_of(model, images()))


@pytest.mark.parametrize("mechanism", ATTENTION_MECHANISMS)
def test_copies_are_networks_of_their_own(mechanism: str):
    _, model, _ = published(mechanism)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images()), model(images()))
        assert all(block.attn.walk is other.blocks.walk is not model.blocks.walk for block in other.blocks)


@pytest.mark.mistyped
def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="unknown gate 'beta'"):
        create_model("deit_tiny", "revit", gate="beta")
    with pytest.raises(ValueError, match="weight is 1; it is the first values' part"):
        create_model("deit_tiny", "value_residual", weight=1)
