"""torchvision's data sets by name, from files as its downloads leave them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from crosslayer.data.decode import View, decode
from crosslayer.data.sources import open_source
from crosslayer.errors import FailedError, UsageError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSLAYER_CACHE", str(tmp_path))
    return tmp_path / "torchvision"


def idx(path: Path, values: np.ndarray) -> None:
    """A file in MNIST's format: type, dimensions and sizes, then bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def test_fashion_mnist_is_grey_and_split(cache: Path):
    rng = np.random.default_rng(0)
    raw = cache / "FashionMNIST" / "FashionMNIST" / "raw"
    images = {part: rng.integers(0, 256, (count, 28, 28)) for part, count in (("train", 12), ("t10k", 5))}
    for part, pixels in images.items():
        idx(raw / f"{part}-images-idx3-ubyte", pixels)
        idx(raw / f"{part}-labels-idx1-ubyte", np.arange(len(pixels)) % 10)
    source = open_source("torchvision:FashionMNIST")
    assert (len(source.train), len(source.val), len(source.classes)) == (12, 5, 10)
    assert source.val.labels.tolist() == [0, 1, 2, 3, 4]
    pixels = decode(source.val, 3, View(28))
    assert pixels.shape == (28, 28, 3)
    assert np.array_equal(pixels[..., 1], images["t10k"][3])


def test_pets_have_labels_beside_their_files(cache: Path):
    base = cache / "OxfordIIITPet" / "oxford-iiit-pet"
    for folder in ("images", "annotations"):
        (base / folder).mkdir(parents=True)
    for split, names in (("trainval", ["Abyssinian_1", "beagle_2"]), ("test", ["beagle_3"])):
        lines = [f"{name} {1 + name.startswith('beagle')} 1 1" for name in names]
        (base / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")
        for name in names:
            Image.new("RGB", (9, 7), (200, 10, 10)).save(base / "images" / f"{name}.jpg")
    source = open_source("torchvision:OxfordIIITPet")
    assert (source.train.labels.tolist(), source.val.labels.tolist()) == ([0, 1], [1])
    assert source.classes == ("Abyssinian", "Beagle")
    assert decode(source.val, 0, View(6)).shape == (6, 6, 3)


def test_eurosat_has_nothing_to_validate_on(cache: Path):
    for name in ("Forest", "River"):
        folder = cache / "EuroSAT" / "eurosat" / "2750" / name
        folder.mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (10 * i, 0, 0)).save(folder / f"{name}_{i}.jpg")
    with pytest.raises(UsageError, match=r"--val-split 0\.2"):
        open_source("torchvision:EuroSAT")
    source = open_source("torchvision:EuroSAT", val_split=0.25)
    assert (len(source.train), len(source.val), source.classes) == (6, 2, ("Forest", "River"))


def test_names_and_downloads_that_fail(cache: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="Flowers102"):
        open_source("torchvision:flowers102")

    def refuse(*_args: object, **_rest: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("torchvision.datasets.flowers102.download_and_extract_archive", refuse)
    with pytest.raises(FailedError, match="no network here"):
        open_source("torchvision:Flowers102")
    assert not (cache / "Flowers102").exists()


def test_svhn_keeps_its_labels(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torchvision.datasets.SVHN._check_integrity", lambda _self: True)
    monkeypatch.setattr("torchvision.datasets.svhn.download_url", lambda *_args, **_rest: None)
    (cache / "SVHN").mkdir(parents=True)
    for part, count in (("train", 4), ("test", 3)):
        content = {"X": np.full((32, 32, 3, count), 9, np.uint8), "y": np.arange(1, count + 1)[:, None]}
        savemat(cache / "SVHN" / f"{part}_32x32.mat", content)
    source = open_source("torchvision:SVHN")
    assert source.train.labels.tolist() == [1, 2, 3, 4]
    assert source.classes == ("0", "1", "2", "3", "4")
