"""What `explain` draws, and what `crosslayer.attention` returns."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import crosslayer as package
from crosslayer.cli import main
from crosslayer.mechanisms.depth_attention import DepthAttention
from crosslayer.reports.attention import attention_entropies, attention_matrices, draw_attention
from crosslayer.reports.explain import explain
from tests.conftest import QUICK


def network(mechanism: str) -> nn.Module:
    torch.manual_seed(0)
    return package.create_model("cifar_resnet20", mechanism, num_classes=4).eval()


@pytest.mark.parametrize("mechanism", ["dla_b", "dla_l", "mrla_b", "mrla_l"])
def test_attention_is_what_the_figure_averages(mechanism: str):
    model, images = network(mechanism), torch.randn(3, 3, 16, 16)
    matrices = package.attention(model, images)
    assert [matrix.shape[0] for matrix in matrices] == [3, 3, 3]
    for matrix, mean in zip(matrices, attention_matrices(model, [images]), strict=True):
        torch.testing.assert_close(matrix.sum(3), torch.ones_like(matrix[..., 0]))
        torch.testing.assert_close(matrix.double().mean((0, 1)), mean)


@pytest.mark.parametrize("mechanism", ["dla_b", "mrla_b"])
def test_entropies_by_hand(mechanism: str):
    torch.manual_seed(0)
    model = package.create_model("cifar_resnet56", mechanism, num_classes=4).eval()
    images = torch.randn(3, 3, 16, 16)
    (first, *_), entropies = package.attention(model, images), attention_entropies(model, [images[:2], images[2:]])
    rows = first.double()[:, :, 3, :4]
    by_hand = -(rows * rows.log()).sum(2).mean(1) / math.log(4)
    assert entropies[0].shape == (3, first.shape[2] - 1)
    torch.testing.assert_close(entropies[0][:, 2], by_hand)
    assert all(0 <= each.min() <= each.max() <= 1 + 1e-12 for each in entropies)


def test_attention_leaves_the_model_as_it_was():
    model = network("dla_l").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    package.attention(model, torch.randn(2, 3, 16, 16))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("mechanism", ["none", "se"])
def test_networks_that_do_not_look_back_are_refused(mechanism: str):
    with pytest.raises(ValueError, match="has no attention over layers"):
        package.attention(network(mechanism), torch.randn(1, 3, 16, 16))
    with pytest.raises(ValueError, match="has no attention over layers"):
        explain(network(mechanism), torch.randn(1, 3, 16, 16))


def test_a_block_alone_contributes_its_own_value():
    model, image = network("mrla_l"), torch.randn(1, 3, 16, 16)
    values = []
    projection = model.get_submodule("stages.0.mechanism.projections.0.value")
    handle = projection.register_forward_hook(lambda _module, _given, value: values.append(value.detach()))
    seen = explain(model, image, 2)
    handle.remove()
    assert seen.explained == 2
    assert [len(row) for row in seen.stages[0]] == [1, 2]
    torch.testing.assert_close(seen.stages[0][0][0], values[0][0].abs().mean(0))
    assert float(seen.cam.min()) >= 0
    assert float(seen.cam.max()) in (0, pytest.approx(1))


def test_grad_cam_is_the_maps_weighed_by_their_mean_gradients():
    model, image = network("dla_l"), torch.randn(1, 3, 16, 16)
    seen = explain(model, image, 1)
    with torch.no_grad():
        last = model.forward_features(image)  # pyright: ignore[reportCallIssue]
        weights = model.get_submodule("fc").weight[1]  # the gradient of a mean, up to a constant
        expected = torch.relu((weights[:, None, None] * last[0]).sum(0))  # pyright: ignore[reportIndexIssue]
    torch.testing.assert_close(seen.cam, expected / expected.max().clamp(min=1e-12), rtol=1e-4, atol=1e-5)


def test_the_command_draws_a_picture_a_class(crosslayer, image_tree: Path, tmp_path: Path):
    path = tmp_path / "run"
    words = ["train", "--data", image_tree, "--output", path, "--mechanism", "dla_l", *QUICK]
    assert main([str(word) for word in words]) == 0
    image = image_tree / "val" / "dark" / "0.png"
    folder = tmp_path / "pictures"
    code, _, err = crosslayer("explain", path, image, "--classes", "dark", "bright", "--output", folder)
    assert code == 0, err
    assert sorted(one.name for one in folder.iterdir()) == ["0-bright.png", "0-dark.png"]
    assert all(one.read_bytes().startswith(b"\x89PNG") for one in folder.iterdir())
    code, _, err = crosslayer("explain", path, image, "--classes", "drak", "--output", folder)
    assert code == 2
    assert "dark" in err


def test_attention_over_depth_is_what_the_blocks_were_summed_with():
    """AttnRes' own weights, recorded at every call; DenseFormer's are its parameters, with signs."""
    torch.manual_seed(0)
    model = package.create_model("cifar_resnet56", "attnres", num_classes=4).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.normal_()
    recorded: list[torch.Tensor] = []
    given = DepthAttention.weights

    def record(self: DepthAttention, *rest: Any) -> Any:
        weights = given(self, *rest)
        recorded.append(torch.stack([weight.mean((1, 2, 3)) for weight in weights], dim=1))
        return weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DepthAttention, "weights", record)
        matrices = package.attention(model, torch.randn(2, 3, 16, 16))
    rows = iter(recorded)
    for matrix in matrices:
        assert matrix.shape[2] + 1 == matrix.shape[3]
        for t in range(matrix.shape[2]):
            torch.testing.assert_close(matrix[:, 0, t, : t + 2], next(rows))
            assert not matrix[:, 0, t, t + 2 :].any()
    assert next(rows, None) is None


@pytest.mark.parametrize("mechanism", ["attnres", "delta_attnres", "denseformer"])
def test_attention_over_depth_is_drawn_signs_too(mechanism: str, tmp_path: Path):
    torch.manual_seed(0)
    model = package.create_model("cifar_resnet56", mechanism, num_classes=4).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.normal_()
    matrices = attention_matrices(model, [torch.randn(2, 3, 16, 16)])
    signed = mechanism == "denseformer"
    for matrix in matrices:
        assert bool((matrix < 0).any()) == signed
        assert signed or torch.allclose(matrix.sum(1), torch.ones(len(matrix), dtype=matrix.dtype))
    draw_attention([(mechanism, matrices)], tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")
    if signed:
        with pytest.raises(ValueError, match="signs"):
            attention_entropies(model, [torch.randn(1, 3, 16, 16)])
    else:
        assert all(
            0 <= each.min() <= each.max() <= 1 + 1e-6
            for each in attention_entropies(model, [torch.randn(1, 3, 16, 16)])
        )
