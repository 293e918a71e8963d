"""Every layout that --data takes, and what is said of data that cannot be used."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image

from crosslayer.data.decode import View, cache_file, decode, decode_all
from crosslayer.data.sources import open_source
from crosslayer.errors import FailedError, UsageError


def png(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, labels: list[int], names: list[str] | None, label_column: str = "label") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(10 * label % 256), "path": f"{i}.png"} for i, label in enumerate(labels)]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, image_type), label_column: pa.array(labels, pa.int64())})
    if names:
        features = {"info": {"features": {label_column: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path)


def test_digits_are_real_and_need_nothing():
    source = open_source("digits")
    assert (len(source.train), len(source.val)) == (1437, 360)
    assert source.classes == tuple("0123456789")
    assert decode(source.train, 0, View(16)).shape == (16, 16, 3)
    assert min(np.bincount(source.val.labels)) >= 34


def test_class_folders(image_tree: Path):
    source = open_source(str(image_tree))
    assert source.classes == ("bright", "dark")
    assert (len(source.train), len(source.val)) == (16, 6)
    pixels = decode_all(source.val, View(8), 2, "val")
    assert pixels.shape == (6, 3, 8, 8)
    assert pixels[:3].float().mean() > 150 > pixels[3:].float().mean()


def test_test_folder_serves_as_validation(image_tree: Path, tmp_path: Path):
    shutil.copytree(image_tree / "train", tmp_path / "train")
    shutil.copytree(image_tree / "val", tmp_path / "test")
    assert len(open_source(str(tmp_path)).val) == 6


@pytest.mark.parametrize("folder", ["", "data"])
@pytest.mark.parametrize("column", ["label", "fine_label"])
def test_parquet_shards(tmp_path: Path, folder: str, column: str):
    write_shard(tmp_path / folder / "train-00000-of-00002.parquet", [0, 1], ["cat", "dog"], column)
    write_shard(tmp_path / folder / "train-00001-of-00002.parquet", [1], ["cat", "dog"], column)
    write_shard(tmp_path / folder / "test-00000-of-00001.parquet", [1, 0], ["cat", "dog"], column)
    source = open_source(str(tmp_path))
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [0, 1, 1]
    assert decode(source.val, 0, View(8)).mean() == 10


def test_parquet_classes_without_names_are_numbered(tmp_path: Path):
    write_shard(tmp_path / "train.parquet", [0, 2], None)
    write_shard(tmp_path / "validation.parquet", [1], None)
    assert open_source(str(tmp_path)).classes == ("0", "1", "2")


@pytest.fixture
def torchvision_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both CIFARs in miniature, as torchvision lays them out; what it knows of the real ones is not asked."""
    import pickle

    def put(name: str, content: dict) -> None:
        write(tmp_path / name, pickle.dumps(content))

    data = np.arange(6 * 3072, dtype=np.uint8).reshape(6, 3072)
    for split in ("train", "test"):
        put(f"cifar-100-python/{split}", {"data": data, "fine_labels": [5, 4, 3, 2, 1, 0]})
    put("cifar-100-python/meta", {"fine_label_names": [f"class {i}" for i in range(100)]})
    for batch in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        put(f"cifar-10-batches-py/{batch}", {"data": data, "labels": [0, 1, 2, 3, 4, 5]})
    put("cifar-10-batches-py/batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    return tmp_path


def test_torchvision_folder(torchvision_root: Path):
    hundred = open_source(str(torchvision_root), dataset="CIFAR100")
    assert len(hundred.classes) == 100
    assert hundred.train.labels.tolist() == [5, 4, 3, 2, 1, 0]
    assert decode(hundred.val, 1, View(32)).shape == (32, 32, 3)
    ten = open_source(str(torchvision_root), dataset="CIFAR10")
    assert (len(ten.classes), len(ten.train), len(ten.val)) == (10, 30, 6)
    with pytest.raises(UsageError, match="holds CIFAR10 and CIFAR100; name the recipe"):
        open_source(str(torchvision_root))
    shutil.rmtree(torchvision_root / "cifar-10-batches-py")
    assert len(open_source(str(torchvision_root)).classes) == 100


def test_what_lies_beside_a_download_changes_nothing(torchvision_root: Path):
    mark = open_source(str(torchvision_root), "CIFAR100").train.fingerprint
    (torchvision_root / "gone").symlink_to(torchvision_root / "nowhere")
    (torchvision_root / "cifar-100-python" / "gone").symlink_to("nowhere")
    write(torchvision_root / "cifar-100-python" / ".DS_Store", b"x")
    write(torchvision_root / "train" / "a" / "b.png", png(1))
    assert open_source(str(torchvision_root), "CIFAR100").train.fingerprint == mark
    write(torchvision_root / "cifar-100-python" / "train", (torchvision_root / "cifar-100-python/train").read_bytes())
    assert open_source(str(torchvision_root), "CIFAR100").train.fingerprint != mark


def test_a_folder_that_only_a_system_wrote_to_is_downloaded_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self):
        raise OSError("no network")

    write(tmp_path / ".DS_Store", b"x")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", refuse)
    with pytest.raises(FailedError, match=r"could not download CIFAR10 into it \(no network\)"):
        open_source(str(tmp_path), dataset="CIFAR10")
    with pytest.raises(UsageError, match="the folder is empty"):
        open_source(str(tmp_path))
    assert (tmp_path / ".DS_Store").exists()


@pytest.mark.parametrize("data", ["~nobody-of-this-name/x", "caf\udce9", "[/x] :dog:", "two\nlines"])
def test_a_folder_of_any_name_is_told_in_one_line(data: str):
    with pytest.raises(UsageError) as told:
        open_source(data)
    assert "\n" not in str(told.value)
    str(told.value).encode()


def test_damaged_torchvision_folder_is_named(tmp_path: Path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(FailedError, match="CIFAR10 there is incomplete or damaged"):
        open_source(str(tmp_path))


def test_failed_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self):
        Path(self.root).mkdir(exist_ok=True)
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", refuse)
    with pytest.raises(FailedError, match=r"could not download CIFAR10 into it \(no network\)"):
        open_source(str(tmp_path / "new"), dataset="CIFAR10")
    assert not (tmp_path / "new").exists()


def test_hub_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_shard(tmp_path / "train-0.parquet", [0, 1], None)
    write_shard(tmp_path / "test-0.parquet", [0], None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda _, **__: str(tmp_path))
    assert len(open_source("hf://someone/something").train) == 2


def test_hub_failure_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object):
        raise ConnectionError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(FailedError, match=r"hf://a/b: cannot get it from the hub \(offline\)"):
        open_source("hf://a/b")


def test_real_cifar100(cifar100: Path):
    source = open_source(str(cifar100))
    assert (len(source.train), len(source.val), len(source.classes)) == (50000, 10000, 100)
    assert source.classes[0] == "apple"
    assert decode(source.val, 0, View(32)).shape == (32, 32, 3)


def test_real_photos(imagenette: Path):
    source = open_source(str(imagenette))
    assert (len(source.train), len(source.val), len(source.classes)) == (4000, 1000, 10)
    assert decode(source.val, 3, View(64)).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda root: root / "absent", UsageError, "does not exist"),
        (lambda root: root, UsageError, "is empty"),
        (lambda root: write(root / "notes.txt", b"hello").parent, UsageError, "found no layout"),
        (lambda root: write(root / "file", b"hello"), UsageError, "a file, not a folder"),
        (lambda root: write(root / "train" / "a" / "x.txt", b"hello").parents[2], UsageError, "under val/ or test/"),
        (
            lambda root: tree(root, {"train/a/x.png": png(0), "val/b/x.png": png(0)}),
            UsageError,
            "class 'b', which train/",
        ),
        (lambda root: tree(root, {"train/a/x.txt": b"", "val/a/x.png": png(0)}), UsageError, "no image in its class"),
        (lambda root: write(root / "train-0.parquet", b"PAR1").parent, UsageError, "no shard named validation"),
        (lambda root: tree(root, {"train.parquet": b"PAR1", "test.parquet": b"PAR1"}), UsageError, "not a readable"),
    ],
)
def test_unusable_data_is_told(tmp_path: Path, make, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        open_source(str(make(tmp_path)))


def test_labels_outside_the_classes_are_named(tmp_path: Path):
    write_shard(tmp_path / "train.parquet", [0, 5, -1], ["cat", "dog"])
    write_shard(tmp_path / "test.parquet", [0], ["cat", "dog"])
    with pytest.raises(UsageError, match=r"row 1 \(1.png\) has label 5, outside the 2 classes 0 to 1 \(2 such"):
        open_source(str(tmp_path))


def test_wrong_columns_are_named(tmp_path: Path):
    table = pa.table({"picture": [b""], "label": [0]})
    for name in ("train", "test"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(UsageError, match=r"needs an image column .* it has picture, label"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("content", [b"not an image", png(3)[:40], b""])
def test_corrupt_image_is_named(tmp_path: Path, content: bytes):
    source = open_source(
        str(tree(tmp_path, {"train/a/good.png": png(0), "train/a/bad.png": content, "val/a/x.png": png(0)}))
    )
    with pytest.raises(FailedError, match=r"train/a/bad.png cannot be decoded as an image"):
        decode_all(source.train, View(8), 2, "train")


def test_images_of_every_kind_become_upright_rgb(tmp_path: Path):
    kinds = {"L": 7, "LA": (7, 255), "RGBA": (7, 7, 7, 255), "CMYK": (248, 248, 248, 0), "P": 0, "1": 0}
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        for mode, colour in kinds.items():
            Image.new(mode, (9, 6), colour).save(
                tmp_path / split / "a" / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
            )
    picture = Image.new("RGB", (8, 8))
    picture.paste((255, 255, 255), (0, 0, 8, 4))  # the upper half is white…
    exif = Image.Exif()
    exif[0x0112] = 3  # …and the camera was held upside down
    picture.save(tmp_path / "train" / "a" / "turned.png", exif=exif)
    source = open_source(str(tmp_path))
    pixels = decode_all(source.train, View(8), 1, "train")
    assert pixels.shape == (len(kinds) + 1, 3, 8, 8)
    assert pixels[-1, :, 0].max() == 0
    assert pixels[-1, :, 7].min() == 255


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        write(root / name, content)
    return root


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", "cut", "other", "foreign"])
def test_a_damaged_cache_is_told_and_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: bytes | str):
    write(tmp_path / "train/a/1.png", png(1))
    write(tmp_path / "val/a/1.png", png(7))
    split, view = open_source(str(tmp_path)).val, View(8)
    cached = cache_file(split, view)
    expected = decode_all(split, view, 1, "val")
    sound = cached.read_bytes()
    if damage == "other":
        np.save(cached, np.zeros((2, 8, 8, 3), np.uint8))
    elif damage == "foreign":
        np.save(cached, np.array([{"an": "object"}]), allow_pickle=True)
    else:
        cached.write_bytes(sound[:-5] if isinstance(damage, str) else damage)
    capsys.readouterr()
    assert torch.equal(decode_all(split, view, 1, "val"), expected)
    assert f"{cached} is damaged; images are decoded anew" in capsys.readouterr().err.replace("\n", "")
    assert cached.read_bytes() == sound


def test_what_killed_processes_left_in_the_cache_goes_after_a_day(tmp_path: Path):
    write(tmp_path / "train/a/1.png", png(1))
    write(tmp_path / "val/a/1.png", png(9))
    split = open_source(str(tmp_path)).val
    folder = cache_file(split, View(8)).parent
    old, young = folder / ".x.npy.1234.partial", folder / ".y.npy.1234.partial"
    write(old, b"x")
    write(young, b"y")
    os.utime(old, (0, 0))
    decode_all(split, View(8), 1, "val")
    assert (old.exists(), young.exists()) == (False, True)
