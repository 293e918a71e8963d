"""A part of the training images, held out."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from crosslayer.data.sources import open_source
from crosslayer.data.split import Split
from crosslayer.errors import UsageError
from crosslayer.training.classifier import load


def pixels(split: Split) -> list[bytes]:
    return [split.open(i).tobytes() for i in range(len(split))]


def test_a_share_of_every_class_and_no_image_in_both():
    whole, source = open_source("digits"), open_source("digits", val_split=0.25)
    assert len(source.train) + len(source.val) == len(whole.train)
    counts = np.bincount(whole.train.labels)
    assert np.bincount(source.val.labels).tolist() == [round(0.25 * count) for count in counts]
    names = [[split.name(i) for i in range(len(split))] for split in (source.train, source.val)]
    assert sorted(names[0] + names[1]) == sorted(whole.train.name(i) for i in range(len(whole.train)))
    again = open_source("digits", val_split=0.25)
    assert pixels(again.val) == pixels(source.val)
    marks = {split.fingerprint for split in (whole.train, source.train, source.val)}
    assert len(marks | {open_source("digits", val_split=0.2).val.fingerprint}) == 4


def test_a_flat_folder_of_classes_needs_it(image_tree: Path, tmp_path: Path):
    shutil.copytree(image_tree / "train", tmp_path / "flat")
    with pytest.raises(UsageError, match=r"--val-split 0\.2"):
        open_source(str(tmp_path / "flat"))
    source = open_source(str(tmp_path / "flat"), val_split=0.25)
    assert source.classes == ("bright", "dark")
    assert (len(source.train), len(source.val)) == (12, 4)
    assert np.bincount(source.val.labels).tolist() == [2, 2]


def test_training_images_alone_will_do(image_tree: Path, tmp_path: Path):
    shutil.copytree(image_tree / "train", tmp_path / "train")
    with pytest.raises(UsageError, match=r"--val-split 0\.2"):
        open_source(str(tmp_path))
    assert len(open_source(str(tmp_path), val_split=0.25).val) == 4


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_something_is_left_on_both_sides(image_tree: Path, share: float):
    with pytest.raises(UsageError, match="both parts"):
        open_source(str(image_tree), val_split=share)


def test_a_run_is_evaluated_on_what_it_held_out(crosslayer, image_tree: Path, tmp_path: Path):
    shutil.copytree(image_tree / "train", tmp_path / "flat")
    words = ("digits", "--data", tmp_path / "flat", "--image-size", 8, "--max-steps", 1, "--batch-size", 4)
    run = tmp_path / "run"
    code, out, err = crosslayer("train", *words, "--val-split", 0.25, "--mechanism", "none", "--output", run)
    assert code == 0, err
    assert "12 train and 4 test images" in " ".join((out + err).split())
    code, out, err = crosslayer("evaluate", run)
    assert code == 0, err
    assert "4 images" in out
    code, out, err = crosslayer("evaluate", run, "--data", image_tree)
    assert "6 images" in out, err
    assert crosslayer("evaluate", run, "--val-split", 1.5)[0] == 2
    assert load(run).class_names == ("bright", "dark")
