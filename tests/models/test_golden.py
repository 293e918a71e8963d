"""Conformance with the authors' released models, to 1e-9 in float64, where their golden vectors are at hand."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import crosslayer
from crosslayer import load_released
from crosslayer.fused import support
from crosslayer.fused.cpu import compiler
from crosslayer.models.released import recognise
from tests.conftest import shared

CIFAR = ["resnet", "se", "eca", "dianet", "mrla_b", "mrla_l", "dla_b", "dla_l", "dla_b_per_sample", "dla_l_per_sample"]
CIFAR += ["kcla"]
FUSED = ("mrla", "dla", "kcla")
IMAGENET = ["ba_resnet50", "rla_resnet50", "resnet50_mrlab", "resnet50_mrlal", "resnet50_dla_l"]
IMAGENET += ["resnet50_kcla", "resnet50_dla_l_per_sample", "deit_mrlal_tiny_patch16_224", "deit_mrlab_tiny_patch16_224"]


def golden_files() -> list[str]:
    """Names of the models with golden vectors; those not there are skipped one by one."""
    return [f"cifar_resnet20_{name}" for name in CIFAR] + [f"imagenet_{name}" for name in IMAGENET]


def released_weights(key: str, shape: tuple[int, ...]) -> Tensor:
    """The recipe of the golden vectors: numbers that follow from the key's name and shape."""
    last = key.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    n = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if last == "running_mean":
        n = 0.1 * n
    elif last == "running_var":
        n = 1 + 0.1 * np.abs(n)
    elif len(shape) == 1 and last == "weight":
        n = 1 + 0.1 * n
    elif len(shape) <= 1:
        n = 0.1 * n
    else:
        fan = int(np.prod(shape[1:]))
        n = 0.3 * n if fan == 1 else n / fan**0.5
    return torch.from_numpy(n)


def close(ours: Any, theirs: Any) -> None:
    ours, theirs = (torch.as_tensor(value, dtype=torch.float64) for value in (ours, theirs))
    assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()


@pytest.mark.parametrize("name", golden_files())
def test_released_model(name: str):
    check_released_model(name)


@pytest.mark.skipif(compiler.obstacle() is not None, reason="no C++ compiler here")
@pytest.mark.parametrize("name", [name for name in golden_files() if any(kind in name for kind in FUSED)])
@pytest.mark.sampled(2)
def test_released_model_fused(name: str):
    check_released_model(name, fused=True)


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="TRITON_INTERPRET is not set")
@pytest.mark.skipif(not support.HAS_TRITON, reason="triton is not installed")
@pytest.mark.parametrize("name", ["dla_b", "dla_l", "mrla_b", "mrla_l"])
def test_released_model_by_tritons_kernels(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(support, "INTERPRETED", True)
    check_released_model(f"cifar_resnet20_{name}", fused=True)


def check_released_model(name: str, *, fused: bool = False) -> None:
    root = shared()
    golden = json.loads(
        next(p for p in (root / "golden", root.parent / "golden") if p.exists()).joinpath(f"{name}.json").read_text()
    )
    state = {key: released_weights(key, tuple(shape)) for key, shape in golden["state"]}
    for key, values in golden.get("fixed", {}).items():  # computed once by the released model, never learned
        state[key] = torch.tensor(values, dtype=torch.float64).reshape(state[key].shape)
    leaky = name.endswith(("dla_b", "dla_l")) and not name.endswith(("mrla_b", "mrla_l"))
    model = load_released(state, **({"context": "first_sample"} if leaky else {}))
    assert sum(p.numel() for p in model.parameters()) == golden["params"]
    if fused:
        assert crosslayer.fuse(model).fused == ("deit" not in name), "tokens are merged plainly"
    shape = (golden["batch"], 3, golden["input_size"], golden["input_size"])
    x = torch.from_numpy(np.random.RandomState(0).standard_normal(shape)).contiguous(
        memory_format=torch.channels_last if fused else torch.contiguous_format
    )
    recorded = golden["logits_recorded"]
    close(model.eval()(x).detach()[:, :recorded], golden["eval_logits"])
    logits = model.train()(x)
    close(logits.detach()[:, :recorded], golden["train_logits"])
    loss = logits.square().mean()
    loss.backward()
    close(loss.detach(), golden["train_loss"])
    gradients = {key: p.grad.norm() for key, p in model.named_parameters() if p.grad is not None}
    ours = recognise(state)[1]
    largest = max(norm for norm in golden["grad_norms"].values() if norm is not None)
    for key, norm in golden["grad_norms"].items():
        if norm is None:
            assert ours[key] not in gradients, key
            continue
        assert abs(gradients[ours[key]] - norm) <= 1e-9 * largest, key
    means = golden["running_mean_after_one_step"]
    if isinstance(means, list):
        means = {[key for key in state if key.endswith("running_mean")][-1]: means}
    for key, mean in means.items():
        close(model.state_dict()[ours[key]][: len(mean)], mean)


def test_the_faulty_and_the_mended_context_are_told_apart():
    """A model with the other context must miss the golden vectors: the comparison can fail."""
    root = shared()
    folder = next((p for p in (root / "golden", root.parent / "golden") if p.exists()), Path())
    golden = json.loads((folder / "cifar_resnet20_dla_l.json").read_text())
    state = {key: released_weights(key, tuple(shape)) for key, shape in golden["state"]}
    x = torch.from_numpy(np.random.RandomState(0).standard_normal((golden["batch"], 3, 32, 32)))
    with pytest.raises(AssertionError):
        close(load_released(state).eval()(x).detach(), golden["eval_logits"])
