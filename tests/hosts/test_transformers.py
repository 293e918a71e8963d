"""Grafts on networks of Hugging Face's transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from crosslayer import graft
from tests.hosts.checks import EACH, MECHANISMS, assert_same, check_all, check_checkpointing, graft_with

hf: Any = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in what it imports where it is there
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def vit() -> nn.Module:
    return hf.ViTForImageClassification(hf.ViTConfig(**SIZES, intermediate_size=64, num_labels=5))


def dinov2() -> nn.Module:
    return hf.Dinov2ForImageClassification(hf.Dinov2Config(**SIZES, num_labels=5))


def dinov2_with_registers() -> nn.Module:
    return hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**SIZES))


def swin() -> nn.Module:
    sizes = {"image_size": 64, "embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 2, 2], "window_size": 4}
    return hf.SwinForImageClassification(hf.SwinConfig(**sizes, drop_path_rate=0.0, num_labels=5))


def run(model: nn.Module) -> Any:
    return model(IMAGES)


HOSTS = {
    "vit": (vit, {"prefix_tokens": 1}, ["vit.layers"]),
    "dinov2": (dinov2, {"prefix_tokens": 1}, ["dinov2.encoder.layer"]),
    "dinov2_with_registers": (dinov2_with_registers, {"prefix_tokens": 5}, ["encoder.layer"]),
    "swin": (swin, {}, [f"swin.encoder.layers.{i}.blocks" for i in range(3)]),
}
ALL = pytest.mark.parametrize(("make", "options", "stages"), HOSTS.values(), ids=HOSTS)


@pytest.mark.parametrize("mechanism", EACH)
@ALL
def test_trains_from_identity_and_is_saved(make, options: dict, stages: list[str], mechanism: str):
    trained = check_all(make, graft_with(mechanism, **options, **MECHANISMS[mechanism]), run)
    assert [attachment.path for attachment in vars(trained)["attachments"]] == stages


@ALL
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(make, options: dict, stages: list[str], reentrant: bool):
    torch.manual_seed(0)
    model = graft(make(), "dla_l", start="published", **options)

    def checkpointed(model: Any) -> Any:
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        return model(IMAGES.clone().requires_grad_())

    check_checkpointing(model, run, checkpointed)


@ALL
def test_hidden_states_are_what_the_next_layer_reads(make, options: dict, stages: list[str]):
    torch.manual_seed(0)
    plain = make().eval()
    plain(IMAGES, output_hidden_states=True)  # hooks that record them are there before the graft's
    model = graft(plain, "dla_l", start="published", **options).eval()
    stage, entered = model.get_submodule(stages[0]), []
    stage[1].register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    states = model(IMAGES, output_hidden_states=True).hidden_states
    assert len(states) > 2
    if len(stages) == 1:  # a Swin records its stages
        assert torch.equal(states[1], entered[0])


def test_hugging_faces_own_files_have_the_backbone(tmp_path: Path):
    torch.manual_seed(0)
    model: Any = graft(vit(), "mrla_l", prefix_tokens=1).eval()
    model.save_pretrained(tmp_path)
    plain = hf.ViTForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert_same(plain(IMAGES), model(IMAGES))


def test_images_of_any_size_where_the_network_takes_them():
    torch.manual_seed(0)
    larger = torch.rand(2, 3, 96, 64)
    plain = dinov2().eval()
    identity, acting = (graft(plain, "dla_l", start=start, prefix_tokens=1) for start in ("identity", "published"))
    with torch.no_grad():
        assert torch.equal(identity(larger).logits, plain(larger).logits)
        assert not torch.equal(acting(larger).logits, plain(larger).logits)
    swin_ = swin().eval()
    with torch.no_grad():
        ours = graft(swin_, "dla_l")(larger, interpolate_pos_encoding=True).logits
        assert torch.equal(ours, swin_(larger, interpolate_pos_encoding=True).logits)


class Named(nn.Module):
    """Calls its layers with keyword arguments only."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 16, 16)
        self.layers: Any = hf.Dinov2Model(hf.Dinov2Config(**SIZES)).encoder.layer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(hidden_states=tokens)
        return tokens


def test_activations_given_by_name():
    check_all(Named, graft_with("dla_l"), run)
