"""Networks saved in a folder and on a local stand-in for the hub come back as they were, or are refused."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import nn

import crosslayer
from crosslayer.mechanisms import registry


def graft_of(backbone: str = "resnet18", mechanism: str = "dla_l", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    plain = timm.create_model(backbone, **options)
    return crosslayer.graft(plain, mechanism, start="published")


def own(backbone: str = "cifar_resnet20", mechanism: str = "dla_l", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return crosslayer.create_model(backbone, mechanism, **options)


NETWORKS = {
    "small": lambda: own(num_classes=3),
    "options": lambda: own("resnet18", cell="paper", reduction=8, activation="relu", num_classes=2, output_stride=16),
    "stages": lambda: own("resnet18", "aa", stages=(2, 3), num_classes=4),
    "grey": lambda: own("resnet18", "mrla_l", in_chans=1, num_classes=0, global_pool="max"),
    "plain": lambda: own("resnet18", "none", num_classes=3),
    "transformer": lambda: own("deit_tiny", "mrla_b", unit="sublayer", img_size=64, num_classes=3),
    "graft": lambda: graft_of(num_classes=3),
    "grafted transformer": lambda: graft_of("vit_tiny_patch16_224", "mrla_l", img_size=64, depth=3, num_classes=3),
    "grafted pool": lambda: graft_of("resnet18", "se", num_classes=2, global_pool="catavgmax", in_chans=1),
}


def outputs(model: nn.Module) -> torch.Tensor:
    channels = next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels
    with torch.no_grad():
        return model.eval()(torch.linspace(-1, 1, channels * 64 * 64).view(1, channels, 64, 64))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.sampled(3)
def test_a_saved_network_comes_back(name: str, tmp_path: Path):
    model = NETWORKS[name]()
    model.save_pretrained(tmp_path / "saved")
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = crosslayer.from_pretrained(tmp_path / "saved")
    assert torch.equal(outputs(again), outputs(model))
    again.save_pretrained(tmp_path / "again")
    first, second = ((tmp_path / folder / "config.json").read_text() for folder in ("saved", "again"))
    first, second = json.loads(first), json.loads(second)
    assert first.pop("model_args").items() <= second.pop("model_args").items()  # timm adds what was left to it
    assert first == second
    by_timm = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True)
    assert torch.equal(outputs(by_timm), outputs(model))


@pytest.mark.parametrize("name", ["options", "transformer", "grafted transformer"])
def test_what_timm_saves_comes_back(name: str, tmp_path: Path):
    model = NETWORKS[name]()
    save_for_hf(model, tmp_path, safe_serialization=True)
    assert torch.equal(outputs(timm.create_model(f"local-dir:{tmp_path}", pretrained=True)), outputs(model))
    assert torch.equal(outputs(crosslayer.from_pretrained(tmp_path)), outputs(model))


def test_facts_of_the_data_are_kept(tmp_path: Path):
    own(num_classes=2).save_pretrained(
        tmp_path, class_names=("cat", "dog"), mean=(0.5,) * 3, std=(0.2,) * 3, image_size=48
    )
    config = crosslayer.from_pretrained(tmp_path).pretrained_cfg
    assert (config["label_names"], config["mean"], config["std"]) == (("cat", "dog"), (0.5,) * 3, (0.2,) * 3)
    assert config["input_size"] == (3, 48, 48)
    model = crosslayer.from_pretrained(tmp_path)
    model.reset_classifier(3)
    model.save_pretrained(tmp_path / "other")
    assert crosslayer.from_pretrained(tmp_path / "other").pretrained_cfg["label_names"] is None


def test_precision_is_kept(tmp_path: Path):
    own(num_classes=2).half().save_pretrained(tmp_path)
    assert crosslayer.from_pretrained(tmp_path).fc.weight.dtype is torch.float16


def test_a_graft_is_still_copied_and_pickled(tmp_path: Path):
    model = graft_of("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=2)
    for number, other in enumerate((copy.deepcopy(model), pickle.loads(pickle.dumps(model)))):
        with torch.no_grad():
            other.head.weight.fill_(1.0)
        other.save_pretrained(tmp_path / str(number))
        assert bool((crosslayer.from_pretrained(tmp_path / str(number)).head.weight == 1).all())


def changed() -> nn.Module:
    model = own(num_classes=2)
    model.extra = nn.Linear(2, 2)
    return model


@pytest.mark.parametrize(
    ("make", "facts", "said"),
    [
        (
            lambda: crosslayer.graft(timm.models.resnet18(num_classes=2), "se"),
            {},
            "cannot be rebuilt from a description",
        ),
        (changed, {}, "changed after it was made: its tensors .* .extra.bias and 1 more"),
        (lambda: own(num_classes=2), {"class_names": ["one"]}, "1 label_names are given for 2 classes"),
        (lambda: own(num_classes=2), {"mean": (0.5,)}, "mean and std are not of 3 channels"),
        (lambda: own(num_classes=2), {"std": (0.0,) * 3}, "normalise nothing"),
        (lambda: own(num_classes=2), {"crop": 2.0}, "crop_pct is 2.0"),
        (lambda: own(num_classes=2), {"interpolation": "lanczos"}, "interpolation is 'lanczos'"),
    ],
)
def test_what_would_not_come_back_is_refused_before_it_is_written(make, facts: dict, said: str, tmp_path: Path):
    with pytest.raises(ValueError, match=said):
        crosslayer.save_pretrained(make(), tmp_path / "saved", **facts)
    assert not (tmp_path / "saved").exists()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    own(num_classes=2).save_pretrained(tmp_path / "saved", class_names=("a", "b"))
    return tmp_path / "saved"


def edit(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "resnet18"}, "'resnet18' is none of crosslayer's"),
        ({"architecture": 3}, "Expected `str`"),
        ({"num_classes": "two"}, "Expected `int`"),
        ({"num_classes": 3}, "2 label_names are given for 3 classes"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "model_args has checkpoint_path"),
        ({"model_args": {"pretrained": True}}, "model_args has pretrained"),
        ({"model_args": {"fancy": 1}}, "mechanism 'dla_l' has no option 'fancy'"),
        ({"model_args": {"reduction": "many"}}, r"Expected `int \| null`, got `str`"),
        ({"model_args": {"in_chans": 1 << 40}}, "which no network has"),
        ({"model_args": {"num_classes": 3}}, r"fc.weight is \[2, 256\], and its description's \[3, 256\]"),
        ({"model_args": []}, "Expected `object`"),
        ({"pretrained_cfg": {"input_size": [3, 32]}}, "length 3"),
        ({"pretrained_cfg": {"input_size": [3, 0, 32]}}, "which is no image's"),
        ({"pretrained_cfg": {"mean": [0.5, 0.5, 1e999]}}, "out of range|normalise nothing|malformed|invalid"),
        (
            {"architecture": "crosslayer_graft", "model_args": {"backbone": "hf-hub:a/b", "mechanism": "se"}},
            "backbone 'hf-hub:a/b' is no network of timm",
        ),
        (
            {"architecture": "crosslayer_graft", "model_args": {"backbone": "resnet18", "mechanism": "magic"}},
            "unknown mechanism 'magic'",
        ),
        (
            {"architecture": "crosslayer_graft", "model_args": {"backbone": "resnet18", "mechanism": "se"}},
            "tensors are others than its description's",
        ),
        (
            {
                "architecture": "crosslayer_graft",
                "model_args": {"backbone": "resnet18", "mechanism": "se", "layers": [1e300] * 4},
            },
            "beyond any network",
        ),
    ],
)
@pytest.mark.sampled(3)
def test_hostile_descriptions_are_refused(changes: dict[str, Any], said: str, saved: Path):
    edit(saved, **changes)
    with pytest.raises(ValueError, match=said):
        crosslayer.from_pretrained(saved)


def test_hostile_files_are_refused(saved: Path, tmp_path: Path):
    weights = load_file(saved / "model.safetensors")
    save_file({**weights, "surplus": torch.zeros(1)}, saved / "model.safetensors")
    with pytest.raises(ValueError, match="does not fit its config"):
        crosslayer.from_pretrained(saved)
    (saved / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        crosslayer.from_pretrained(saved)
    (saved / "config.json").write_bytes(b"\xff{")
    with pytest.raises(ValueError, match="describes no network"):
        crosslayer.from_pretrained(saved)
    (saved / "config.json").unlink()
    with pytest.raises(ValueError, match="there is no config"):
        crosslayer.from_pretrained(saved)
    with pytest.raises(ValueError, match="no OWNER/NAME"):
        crosslayer.from_pretrained(tmp_path / "absent" / "deeper" / "still")


def test_a_mechanism_of_the_users_own_is_saved_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Registered after timm has learned the names, in a file outside of the package."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    gates = registry.lookup("se")
    registry.register("own_gates", gates.mechanism, gates.config)
    model = crosslayer.create_model("cifar_resnet20", "own_gates", num_classes=3, reduction=4).eval()
    model.save_pretrained(tmp_path / "saved")
    loaded = crosslayer.from_pretrained(tmp_path / "saved").eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), model(x))
