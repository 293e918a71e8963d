"""What networks with layer attention keep for the backward pass, counted on tensors without memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import crosslayer
from crosslayer.fused import support
from crosslayer.fused.cpu import compiler

BATCH, SIZE = 32, 224


def kept_bytes(mechanism: str, *, fused: bool = True) -> int:
    """Of a training step of ResNet-50 in bfloat16, parameters and their copies left out."""
    kept: dict[int, int] = {}
    held: list[torch.UntypedStorage] = []

    def keep(saved: Tensor) -> Tensor:
        if saved.shape[:1] == (BATCH,):
            held.append(saved.untyped_storage())  # so that no other storage takes its place
            kept[held[-1]._cdata] = held[-1].nbytes()
        return saved

    with FakeTensorMode():
        model = crosslayer.create_model("resnet50", mechanism, num_classes=10)
        if fused:
            assert crosslayer.fuse(model).fused or mechanism == "none"
        x = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved)
        with torch.autocast("cpu", torch.bfloat16), hooks:
            F.cross_entropy(model(x), torch.zeros(BATCH, dtype=torch.long)).backward()
    return sum(kept.values())


@pytest.fixture(scope="module")
def plain() -> int:
    """Of the network without layer attention, of which no op is fused."""
    return kept_bytes("none")


@pytest.mark.parametrize(("mechanism", "most"), [("mrla_l", 1.1), ("dla_l", 1.12)])
def test_in_the_kernels_for_a_gpu_light_forms_keep_hardly_more_than_plain(
    mechanism: str, most: float, plain: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(support, "INTERPRETED", True)  # as on a GPU: nothing runs without memory
    assert 1 < kept_bytes(mechanism) / plain <= most


@pytest.mark.skipif(compiler.obstacle() is not None, reason="no C++ compiler here")
@pytest.mark.parametrize(("mechanism", "most"), [("mrla_l", 1.4), ("dla_l", 1.42), ("mrla_b", 1.4), ("dla_b", 1.45)])
def test_on_a_cpu_every_form_keeps_one_map_a_block_more(mechanism: str, most: float, plain: int):
    assert 1 < kept_bytes(mechanism) / plain <= most
