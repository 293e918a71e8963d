"""Order, augmentation and shares of the images to train on."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslayer.data.rng import generator
from crosslayer.data.stream import Shares, TrainingStream
from crosslayer.detection.coco import Annotations
from crosslayer.detection.scenes import Augmentation, Scene, TrainingScenes
from crosslayer.detection.source import train_annotations
from crosslayer.errors import FailedError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def annotations(coco_set: Path) -> Annotations:
    return train_annotations(str(coco_set), masks=True)


def scenes_of(annotations: Annotations, *, workers: int = 0, keep_empty: bool = False, **chance) -> TrainingScenes:
    how = Augmentation(**chance)
    return TrainingScenes(annotations, how, keep_empty=keep_empty, device=CPU, workers=workers)


def epoch(images: TrainingScenes, shares: Shares, number: int = 0, first_step: int = 0) -> list[list[list[Scene]]]:
    stream = TrainingStream(images, batch_size=4, shares=shares, seed=3)
    return list(stream.epoch(number, first_step))


def same(a: Scene, b: Scene) -> bool:
    return torch.equal(a.image, b.image) and all(torch.equal(a.target[name], b.target[name]) for name in a.target)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 7), st.integers(0, 5))
def test_every_image_once_and_like_shapes_together(wide: list[bool], part: int, seed: int):
    images = object.__new__(TrainingScenes)
    images.chosen, images.wide = torch.arange(len(wide)), torch.tensor(wide)
    order = images.order(generator(seed), part)
    assert sorted(order.tolist()) == list(range(len(wide)))
    shapes = [{wide[i] for i in chunk.tolist()} for chunk in order.split(part) if len(chunk) == part]
    assert sum(len(kinds) > 1 for kinds in shapes) <= 1


def test_epochs_differ_and_repeat(annotations: Annotations):
    images = scenes_of(annotations)
    first = images.order(generator(3, 0), 2)
    assert torch.equal(first, images.order(generator(3, 0), 2))
    assert not torch.equal(first, images.order(generator(3, 1), 2))


def test_an_epoch_goes_on_where_it_was_left(annotations: Annotations):
    whole = epoch(scenes_of(annotations, jitter=48), Shares(0, 1, 1))
    (left,) = epoch(scenes_of(annotations, jitter=48), Shares(0, 1, 1), first_step=1)
    assert all(same(a, b) for a, b in zip(whole[1][0], left[0], strict=True))


def test_workers_change_nothing(annotations: Annotations):
    alone, helped = scenes_of(annotations, jitter=48), scenes_of(annotations, workers=2, jitter=48)
    for ours, theirs in zip(epoch(alone, Shares(0, 1, 1)), epoch(helped, Shares(0, 1, 1)), strict=True):
        assert all(same(a, b) for a, b in zip(ours[0], theirs[0], strict=True))
    helped.close()


def test_processes_take_disjoint_shares_of_the_same_batches(annotations: Annotations):
    both = epoch(scenes_of(annotations), Shares(0, 2, 2))
    for process in range(2):
        mine = epoch(scenes_of(annotations), Shares(process, 1, 2))
        for step, parts in enumerate(mine):
            assert all(same(a, b) for a, b in zip(parts[0], both[step][process], strict=True))


def test_a_mirrored_image_takes_its_objects_along(annotations: Annotations):
    dataset = scenes_of(annotations).workers.loader.dataset
    plain = scenes_of(annotations, flip=False).workers.loader.dataset
    mirrored = 0
    for number in range(8):
        ours, theirs = dataset.scene((0, number), 1), plain.scene((0, number), 1)
        if torch.equal(ours.image, theirs.image):
            continue
        mirrored += 1
        assert torch.equal(ours.image, theirs.image.flip(2))
        assert torch.equal(ours.target["masks"], theirs.target["masks"].flip(2))
        assert torch.equal(ours.target["boxes"][:, [2, 0]], 80 - theirs.target["boxes"][:, [0, 2]])
    assert 0 < mirrored < 8


def test_jittered_squares_hold_their_objects(annotations: Annotations):
    dataset = scenes_of(annotations, jitter=64).workers.loader.dataset
    seen = 0
    for number in range(20):
        scene = dataset.scene((0, number), number % 10)
        assert scene.image.shape == (3, 64, 64)
        boxes, masks = scene.target["boxes"], scene.target["masks"]
        assert len(boxes) == len(masks) == len(scene.target["labels"])
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        for box, mask in zip(boxes.round().long().tolist(), masks, strict=True):
            left, top, right, bottom = box
            seen += 1
            assert mask.sum() == mask[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1].sum()
    assert seen > 5


def test_images_without_objects(annotations: Annotations):
    starts = annotations.starts.clone()
    starts[1:] = starts[1:] - starts[1]
    emptied = dataclasses.replace(
        annotations, starts=starts, boxes=annotations.boxes[2:], labels=annotations.labels[2:], shapes=None
    )
    assert len(scenes_of(emptied)) == 9
    assert 0 not in scenes_of(emptied).chosen
    images = scenes_of(emptied, keep_empty=True)
    assert len(images) == 10
    assert images.workers.loader.dataset.scene((0, 0), 0).target["boxes"].shape == (0, 4)
    nothing = dataclasses.replace(emptied, starts=torch.zeros_like(starts))
    with pytest.raises(FailedError, match="have no object to learn from"):
        scenes_of(nothing)
