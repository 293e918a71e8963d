"""Whatever lies in a user's folders: a result with the right values, or one sentence."""

import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslayer.data.decode import View, decode, decode_all
from crosslayer.data.sources import open_source
from crosslayer.errors import FailedError, UsageError
from tests.data.strategies import (
    JUNK,
    LEFT_BEHIND,
    MARKED,
    PICTURES,
    damages,
    grey,
    image_arrays,
    label_arrays,
    metadata,
    put,
    shard,
    trees,
)

SECONDS = 20
"""No small input may take longer; what hung took for ever."""


def one_sentence(error: Exception, what: str = "") -> None:
    assert what in str(error)
    assert 10 < len(str(error)) < 1500
    assert str(error).count("\n") < 3
    str(error).encode()


def check_tree(make) -> None:
    with tempfile.TemporaryDirectory() as folder:
        count = make(Path(folder))
        try:
            source = open_source(folder)
        except UsageError as error:
            assert count < 2
            return one_sentence(error)
        assert len(source.train) == count
        for i, label in enumerate(source.train.labels):
            value = decode(source.train, i, View(4)).max()
            assert value == decode(source.val, int(label), View(4)).max()
    return None


def check_shards(images: pa.Array, labels: pa.Array, stored, damage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        train = shard(Path(folder, "train.parquet"), images, labels, stored)
        shard(Path(folder, "test.parquet"), images, labels, stored)
        if damage:
            train.write_bytes(damage(train.read_bytes()))
        began = time.monotonic()
        try:
            source = open_source(folder)
            assert len(source.train.labels) == len(source.train)
            for i in range(len(source.train)):
                assert decode(source.train, i, View(4)).shape == (4, 4, 3)
        except (UsageError, FailedError) as error:
            one_sentence(error)
        assert time.monotonic() - began < SECONDS


def check_picture(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        put(Path(folder, "train", "a", "x.png"), content)
        put(Path(folder, "val", "a", "x.png"), grey(0))
        began = time.monotonic()
        try:
            assert decode(open_source(folder).train, 0, View(4)).shape == (4, 4, 3)
        except FailedError as error:
            one_sentence(error, "train/a/x.png cannot be decoded as an image: ")
        assert time.monotonic() - began < SECONDS


@st.composite
def shards(draw: st.DrawFn):
    labels = draw(label_arrays)
    return draw(image_arrays(len(labels))), labels, draw(metadata)


damaged_pictures = st.sampled_from(sorted(PICTURES)).flatmap(lambda kind: damages(PICTURES[kind]))
shard_damages = st.randoms(use_true_random=False).map(lambda random: lambda content: damaged(content, random))


def damaged(content: bytes, random) -> bytes:
    changed = bytearray(content)
    if random.random() < 0.4:
        return bytes(changed[: random.randrange(len(changed))])
    for _ in range(random.choice([1, 1, 2, 5])):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


quick = settings(max_examples=40, deadline=None, derandomize=True)
thorough = settings(max_examples=3000, deadline=None)


@quick
@given(trees())
def test_trees(make):
    check_tree(make)


@quick
@given(shards(), st.one_of(st.none(), shard_damages))
def test_shards(made, damage):
    check_shards(*made, damage)


@settings(quick, max_examples=150)
@given(damaged_pictures)
@pytest.mark.filterwarnings("ignore")
def test_damaged_pictures(content: bytes):
    check_picture(content)


@pytest.mark.slow
@settings(thorough, max_examples=500)
@given(trees())
def test_many_trees(make):
    check_tree(make)


@pytest.mark.slow
@thorough
@given(shards(), st.one_of(st.none(), shard_damages))
def test_many_shards(made, damage):
    check_shards(*made, damage)


@pytest.mark.slow
@thorough
@given(damaged_pictures)
@pytest.mark.filterwarnings("ignore")
def test_many_damaged_pictures(content: bytes):
    check_picture(content)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Cats of grey 10 and dogs of grey 20."""
    for split in ("train", "val"):
        put(tmp_path / split / "cat" / "a.png", grey(10))
        put(tmp_path / split / "dog" / "a.png", grey(20))
    return tmp_path


def values(split) -> list[int]:
    return decode_all(split, View(8), 1, "x")[:, 0, 0, 0].tolist()


def test_what_tools_leave_is_skipped_and_counted(two: Path, capsys: pytest.CaptureFixture[str]):
    for folder in LEFT_BEHIND:
        put(two / "train" / folder / "x.png", grey(255))
        put(two / "train" / "cat" / folder / "x.png", grey(255))
    for name in JUNK:
        put(two / "train" / "cat" / name, b"junk")
    (two / "train" / "empty").mkdir()
    source = open_source(str(two))
    assert source.classes == ("cat", "dog")
    assert values(source.train) == [10, 20]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"skipped {2 * len(LEFT_BEHIND) + len(JUNK)} files and folders" in said
    assert "1 class folders without pictures" in said


def test_nothing_is_said_where_nothing_was_skipped(two: Path, capsys: pytest.CaptureFixture[str]):
    open_source(str(two))
    assert capsys.readouterr().err == ""


def test_a_folder_of_documents_only_is_refused(tmp_path: Path):
    for name in ("a.pdf", "b.h5", "c.mpg", "d.eps"):
        put(tmp_path / "train" / "cat" / name, b"%PDF")
    put(tmp_path / "val" / "cat" / "a.png", grey(1))
    with pytest.raises(UsageError, match="there is no image in its class folders"):
        open_source(str(tmp_path))


def test_a_class_without_training_pictures_is_refused(two: Path):
    (two / "train" / "emu").mkdir()
    put(two / "val" / "emu" / "a.png", grey(3))
    with pytest.raises(UsageError, match="val/ has class 'emu', which train/ has no picture of"):
        open_source(str(two))


def test_a_split_nested_in_itself_is_descended_into(two: Path):
    (two / "train").rename(two / "once")
    (two / "train").mkdir()
    (two / "once").rename(two / "train" / "train")
    source = open_source(str(two))
    assert source.classes == ("cat", "dog")
    assert values(source.train) == [10, 20]


def test_classes_one_folder_too_deep_are_refused(tmp_path: Path):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            put(tmp_path / split / "pictures" / name / "a.png", grey(1))
    with pytest.raises(UsageError, match=r"pictures is the only class folder .* \(cat, dog, …\): move these one"):
        open_source(str(tmp_path))


def test_linked_folders_are_followed_once_and_loops_end(two: Path, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere / "b.png", grey(11))
    for link in ("linked", "linked again"):
        (two / "train" / "cat" / link).symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "up").symlink_to(two / "train", target_is_directory=True)
    (two / "train" / "dog" / "self").symlink_to(two / "train" / "dog" / "self")
    (two / "train" / "cat" / "gone.png").symlink_to(two / "nowhere")
    assert values(open_source(str(two)).train) == [10, 11, 20]


@pytest.mark.parametrize("name", MARKED)
def test_odd_names(tmp_path: Path, name: str):
    for split in ("train", "val"):
        put(tmp_path / split / name / f"{name}.png", grey(7))
        put(tmp_path / split / "zzz" / "x.png", grey(8))
    source = open_source(str(tmp_path))
    assert len(source.classes) == 2
    for said in (*source.classes, source.train.name(0), source.train.fingerprint):
        assert "\n" not in said
        said.encode()
    assert sorted(values(source.train)) == [7, 8]


@pytest.mark.parametrize(
    "stray", ["metadata.parquet", "train/metadata.parquet", "train/cat/x.parquet", "notes.parquet"]
)
def test_a_stray_parquet_file_hides_no_class_folders(two: Path, stray: str):
    put(two / stray, b"PAR1")
    assert open_source(str(two)).classes == ("cat", "dog")


def test_both_layouts_at_once_are_refused(two: Path):
    put(two / "train-0.parquet", b"PAR1")
    put(two / "test-0.parquet", b"PAR1")
    with pytest.raises(UsageError, match="holds class folders and parquet shards"):
        open_source(str(two))
