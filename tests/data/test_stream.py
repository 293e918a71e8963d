"""The stream of training batches: a function of seed, epoch and step, however it is computed."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crosslayer.data.augment import Draws, crop_and_flip, draw, normalise
from crosslayer.data.decode import View, cache_file, decode_all
from crosslayer.data.images import Batch, ResidentImages, StreamedImages
from crosslayer.data.rng import seed_device, seeded
from crosslayer.data.sources import open_source
from crosslayer.data.stream import Shares, TrainingStream
from crosslayer.data.training_images import PadCrops
from crosslayer.errors import FailedError, UsageError

CPU = torch.device("cpu")
WHOLE = Shares(0, 1, 1)


def stream(images, shares: Shares = WHOLE, seed: int = 0) -> TrainingStream:
    return TrainingStream(PadCrops(images, pad=2, flip=True), batch_size=4, shares=shares, seed=seed)


def resident(count: int = 11) -> ResidentImages:
    pixels = torch.arange(count * 3 * 5 * 6).reshape(count, 3, 5, 6).remainder(251).byte()
    return ResidentImages(pixels, torch.arange(count).numpy(), CPU)


def flat(steps: list[list[Batch]]) -> list[Tensor]:
    return [torch.cat([part.pixels for part in parts]) for parts in steps]


def test_every_image_once_and_no_partial_batch():
    labels = torch.cat([part.labels for parts in stream(resident()).epoch(0) for part in parts])
    assert len(labels) == 8 == len(set(labels.tolist()))


def test_seed_and_epoch_change_the_stream_and_nothing_else_does():
    first = flat(list(stream(resident()).epoch(3)))
    again = flat(list(stream(resident()).epoch(3)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], flat(list(stream(resident()).epoch(4)))[0])
    assert not torch.equal(first[0], flat(list(stream(resident(), seed=1).epoch(3)))[0])


def test_an_epoch_goes_on_where_it_was_left():
    whole = flat(list(stream(resident()).epoch(2)))
    rest = flat(list(stream(resident()).epoch(2, first_step=1)))
    assert torch.equal(whole[1], rest[0])
    assert len(rest) == len(whole) - 1


@pytest.mark.parametrize("total", [2, 4])
def test_processes_and_parts_share_the_same_batch(total: int):
    whole = flat(list(stream(resident()).epoch(0)))
    as_processes = [flat(list(stream(resident(), Shares(rank, 1, total)).epoch(0))) for rank in range(total)]
    as_parts = list(stream(resident(), Shares(0, total, total)).epoch(0))
    for step, expected in enumerate(whole):
        assert torch.equal(torch.cat([process[step] for process in as_processes]), expected)
        assert torch.equal(torch.cat([part.pixels for part in as_parts[step]]), expected)


@pytest.mark.parametrize("together", [1, 7, 8, 1000])
def test_however_many_steps_are_augmented_at_once(together: int, monkeypatch: pytest.MonkeyPatch):
    kept, asked = resident(25), []
    first = list(stream(kept, Shares(0, 2, 2)).epoch(0))
    kept.together, whole = together, kept.batches
    monkeypatch.setattr(kept, "batches", lambda plan: whole(asked.append(len(rows)) or rows for rows in plan))
    for ours, theirs in zip(stream(kept, Shares(0, 2, 2)).epoch(0), first, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a.pixels, b.pixels)
            assert torch.equal(a.labels, b.labels)
    assert sum(asked) == 24
    assert max(asked) == min(24, max(2, together // 2 * 2))


def test_seeds_reach_the_generators_in_use():
    torch.manual_seed(seeded(5, 7))
    expected = torch.rand(3)
    seed_device(CPU, 5, 7)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [1, 3])
def test_streamed_equals_resident(image_tree: Path, workers: int):
    split = open_source(str(image_tree)).train
    kept = ResidentImages(decode_all(split, View(8), 2, "train"), split.labels, CPU)
    streamed = StreamedImages(split, View(8), CPU, workers)
    for a, b in zip(stream(kept).epoch(1), stream(streamed).epoch(1), strict=True):
        assert torch.equal(a[0].pixels, b[0].pixels)
        assert torch.equal(a[0].labels, b[0].labels)


def test_corrupt_image_stops_a_streamed_epoch(tmp_path: Path):
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        for i in range(4):
            (tmp_path / split / "a" / f"{i}.png").write_bytes(b"nothing")
    streamed = StreamedImages(open_source(str(tmp_path)).train, View(8), CPU, 2)
    with pytest.raises(FailedError, match=r"train/a/\d.png cannot be decoded"):
        next(stream(streamed).epoch(0))


def test_cache_serves_the_second_time_and_changes_with_the_files(image_tree: Path, monkeypatch: pytest.MonkeyPatch):
    split = open_source(str(image_tree)).val
    first = decode_all(split, View(9), 2, "val")
    assert cache_file(split, View(9)).exists()
    monkeypatch.setattr("crosslayer.data.decode.decode_batch", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(decode_all(open_source(str(image_tree)).val, View(9), 2, "val"), first)
    changed = next((image_tree / "val").rglob("*.png"))
    changed.touch()
    assert cache_file(open_source(str(image_tree)).val, View(9)) != cache_file(split, View(9))


def test_too_few_images_and_uneven_shares_are_refused():
    with pytest.raises(UsageError, match="has 3 images, fewer than one batch of 4"):
        stream(resident(3))
    with pytest.raises(UsageError, match="--batch-size 4 cannot be cut evenly into 3 parts"):
        stream(resident(), Shares(0, 3, 3))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(0, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_crop_and_flip_is_pad_slice_mirror(count: int, pad: int, height: int, width: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    draws = draw(generator, count, pad, flip=True)
    cropped = crop_and_flip(pixels, draws, pad)
    for i in range(count):
        padded = F.pad(pixels[i], (pad, pad, pad, pad))
        top, left = int(draws.top[i]), int(draws.left[i])
        expected = padded[:, top : top + height, left : left + width]
        assert torch.equal(cropped[i], expected.flip(2) if draws.flipped[i] else expected)


def test_draws_cover_their_range():
    draws = draw(torch.Generator().manual_seed(0), 1000, 4, flip=True)
    assert (int(draws.top.min()), int(draws.top.max())) == (0, 8)
    assert 400 < int(draws.flipped.sum()) < 600
    assert not draw(torch.Generator().manual_seed(0), 1000, 4, flip=False).flipped.any()


def test_normalise_centres():
    pixels = torch.randint(0, 256, (64, 3, 9, 9), dtype=torch.uint8)
    unit = pixels.double() / 255
    mean, std = unit.mean((0, 2, 3)), unit.std((0, 2, 3), correction=0)
    x = normalise(pixels, mean.tolist(), std.tolist())
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), (unit - mean[:, None, None]) / std[:, None, None], rtol=1e-5, atol=1e-5)


def test_no_augmentation_is_identity():
    images = resident()
    draws = Draws(
        torch.zeros(11, dtype=torch.int64), torch.zeros(11, dtype=torch.int64), torch.zeros(11, dtype=torch.bool)
    )
    assert torch.equal(crop_and_flip(images.pixels, draws, 0), images.pixels)
