"""Random resized crops and RandAugment: the same whatever the workers, from wherever an epoch is begun."""

import os
import pickle
import signal
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from torchvision import transforms

from crosslayer.data.decode import View
from crosslayer.data.resized_crops import Augmentation, ResizedCrops, rand_augment
from crosslayer.data.sources import open_source
from crosslayer.data.split import Split
from crosslayer.data.stream import Shares, TrainingStream
from crosslayer.errors import FailedError
from tests.data.test_sources import write_shard

CPU = torch.device("cpu")
HOW = Augmentation(8, crop_scale=0.3, rand_augment="rand-m9-mstd0.5-inc1")


def epoch(split: Split, workers: int = 0, epoch: int = 0, first: int = 0, how=HOW, shares=Shares(0, 1, 1), seed=0):  # noqa: B008
    """All pixels of an epoch, step by step."""
    images = ResizedCrops(split, how, CPU, workers)
    stream = TrainingStream(images, batch_size=4, shares=shares, seed=seed)
    try:
        return [torch.cat([part.pixels for part in parts]) for parts in stream.epoch(epoch, first)]
    finally:
        images.close()


@pytest.fixture
def split(image_tree: Path) -> Split:
    return open_source(str(image_tree)).train


@pytest.mark.exhaustive
def test_workers_and_interruptions_change_nothing(split: Split):
    whole = epoch(split)
    assert [step.shape for step in whole] == [(4, 3, 8, 8)] * 4
    assert all(torch.equal(a, b) for a, b in zip(whole, epoch(split, workers=2), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], epoch(split, workers=1, first=3), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], epoch(split, first=2), strict=True))


def test_seed_and_epoch_change_the_crops(split: Split):
    first = torch.cat(epoch(split))
    for other in (epoch(split, epoch=1), epoch(split, seed=1)):
        assert not torch.equal(first.sort(0).values, torch.cat(other).sort(0).values)


def test_processes_and_parts_share_the_same_batch(split: Split):
    whole = epoch(split)
    ranks = [epoch(split, shares=Shares(rank, 1, 2)) for rank in range(2)]
    parts = epoch(split, shares=Shares(0, 2, 2))
    for step, expected in enumerate(whole):
        assert torch.equal(torch.cat([rank[step] for rank in ranks]), expected)
        assert torch.equal(parts[step], expected)


def test_workers_serve_one_epoch_after_another_even_a_broken_one(split: Split):
    images = ResizedCrops(split, HOW, CPU, workers=1)
    stream = TrainingStream(images, batch_size=4, shares=Shares(0, 1, 1), seed=0)
    next(steps := stream.epoch(0))
    steps.close()
    again = [parts[0].pixels for parts in stream.epoch(1)]
    images.close()
    assert all(torch.equal(a, b) for a, b in zip(again, epoch(split, epoch=1), strict=True))


def test_without_chance_it_is_a_resize(tmp_path: Path):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        for i in range(4):
            Image.new("L", (9 + i, 30), 40 * i).save(tmp_path / part / "a" / f"{i}.png")
    pixels = torch.cat(epoch(open_source(str(tmp_path)).train, how=Augmentation(5, flip=False)))
    assert sorted(pixels.flatten(1).float().mean(1).tolist()) == [0, 40, 80, 120]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named(tmp_path: Path, workers: int):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        for i in range(4):
            (tmp_path / part / "a" / f"{i}.png").write_bytes(b"nothing")
    with pytest.raises(FailedError, match=r"^\S+train/a/\d.png cannot be decoded as an image: [^\n]+$"):
        epoch(open_source(str(tmp_path)).train, workers)


REFUSED = r"^--rand-augment rand-m1-n40 cannot be applied to [^\n]+: bits must be"
"""What is said of negative bits, which Pillow refuses from version 13 on."""


def test_a_magnitude_that_pillow_refuses_is_named(split: Split, monkeypatch: pytest.MonkeyPatch):
    def refuse(_image: object, bits: int) -> None:
        raise ValueError(f"bits must be between 1 and 8, not {bits}")

    monkeypatch.setattr("PIL.ImageOps.posterize", refuse)
    with pytest.raises(FailedError, match=REFUSED):
        epoch(split, 0, how=HOW._replace(rand_augment="rand-m1-n40"))


@pytest.mark.skipif(PIL.__version__ < "13", reason="Pillow refuses no magnitude before version 13")
def test_a_magnitude_that_pillow_refuses_in_a_worker_is_named(split: Split):
    with pytest.raises(FailedError, match=REFUSED):
        epoch(split, 1, how=HOW._replace(rand_augment="rand-m1-n40"))


def test_a_worker_that_is_ended_is_told(split: Split):
    images = ResizedCrops(split, HOW, CPU, workers=1)
    steps = TrainingStream(images, batch_size=1, shares=Shares(0, 1, 1), seed=0).epoch(0)
    next(steps)
    (worker,) = images.workers.loader._iterator._workers
    os.kill(worker.pid, signal.SIGTERM)  # the training process's own business
    next(steps)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(FailedError, match="a process that decodes images was ended from outside"):
        list(steps)
    images.close()


def test_shards_are_opened_again_in_a_worker(tmp_path: Path):
    write_shard(tmp_path / "train.parquet", [0, 1, 1, 0], ["cat", "dog"])
    write_shard(tmp_path / "test.parquet", [1], ["cat", "dog"])
    split = open_source(str(tmp_path)).train
    sent = pickle.dumps(split)
    copy = pickle.loads(sent)
    assert np.array_equal(np.asarray(copy.open(1)), np.asarray(split.open(1)))
    assert copy.name(1) == split.name(1)
    assert b"PNG" not in sent


def test_rand_augment_configurations():
    image = Image.effect_noise((12, 12), 50).convert("RGB")
    assert rand_augment("rand-m9-n3-mstd0.5", 12)(image).size == (12, 12)
    for wrong in ("m9", "rand-x3", "rand-mfoo9"):
        with pytest.raises(ValueError, match="is no RandAugment configuration of timm"):
            rand_augment(wrong, 12)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_is_resize_256_crop_224(interpolation: str):
    image = Image.effect_noise((40, 30), 80).convert("RGB")
    mode = transforms.InterpolationMode(interpolation)
    expected = transforms.Compose([transforms.Resize(16, mode), transforms.CenterCrop(14)])(image)
    assert np.array_equal(View(14, 14 / 16, interpolation).of(image), np.asarray(expected))
    assert View(14, 1.0, interpolation).of(image).shape == (14, 14, 3)
