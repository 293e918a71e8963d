"""Parquet shards of every type and numbering: the right pictures under the right classes, or one sentence."""

import json
import pickle
import struct
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crosslayer.data.decode import View, decode, decode_all
from crosslayer.data.sources import open_source
from crosslayer.errors import FailedError, UsageError
from tests.data.strategies import class_label, grey, put, shard, structs


def whole(values: list[int]) -> pa.Array:
    return pa.array(values, pa.int64())


def values(split) -> list[int]:
    return decode_all(split, View(8), 1, "x")[:, 0, 0, 0].tolist()


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Greys 10 and 20 to train on, cat and dog; 20 to validate with."""
    shard(tmp_path / "train.parquet", structs([10, 20]), whole([0, 1]), class_label(["cat", "dog"]))
    shard(tmp_path / "test.parquet", structs([20]), whole([1]), class_label(["cat", "dog"]))
    return tmp_path


def test_splits_that_number_classes_differently_are_matched_by_name(pair: Path):
    shard(pair / "test.parquet", structs([20, 10]), whole([0, 1]), class_label(["dog", "cat"]))
    source = open_source(str(pair))
    assert source.classes == ("cat", "dog")
    assert source.val.labels.tolist() == [1, 0]


def test_shards_of_one_split_are_matched_by_name_too(tmp_path: Path):
    shard(tmp_path / "train-0.parquet", structs([10]), whole([0]), class_label(["cat", "dog"]))
    shard(tmp_path / "train-1.parquet", structs([20]), whole([0]), class_label(["dog"]))
    shard(tmp_path / "test.parquet", structs([10]), whole([0]))
    assert open_source(str(tmp_path)).train.labels.tolist() == [0, 1]


def test_a_class_that_only_validation_names_is_refused(pair: Path):
    shard(pair / "test.parquet", structs([20]), whole([0]), class_label(["emu", "cat"]))
    with pytest.raises(UsageError, match="'emu' is not among the others'"):
        open_source(str(pair))


def test_a_label_outside_its_own_names_is_not_renumbered(pair: Path):
    shard(pair / "test.parquet", structs([20, 20]), whole([0, -1]), class_label(["dog", "cat"]))
    with pytest.raises(UsageError, match="row 1 has label -1, outside its 2 classes"):
        open_source(str(pair))


def test_several_configurations_are_refused_and_one_can_be_named(tmp_path: Path):
    for name, classes in (("plain", ["cat", "dog"]), ("swapped", ["dog", "cat"])):
        for split in ("train", "test"):
            shard(tmp_path / name / f"{split}-0.parquet", structs([10, 20]), whole([0, 1]), class_label(classes))
    with pytest.raises(UsageError, match=r"of 2 configurations \(folders plain, swapped\)"):
        open_source(str(tmp_path))
    assert open_source(str(tmp_path / "swapped")).classes == ("dog", "cat")


def test_a_configuration_on_the_hub_is_named_by_its_folder(pair: Path, monkeypatch: pytest.MonkeyPatch):
    asked = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **more: asked.update(more, name=name) or pair.parent
    )
    assert len(open_source(f"hf://someone/something/{pair.name}").train) == 2
    assert (asked["name"], asked["allow_patterns"]) == ("someone/something", f"{pair.name}/*.parquet")


@pytest.mark.parametrize(
    "images",
    [
        structs([10, 20]),
        structs([10, 20], pa.large_binary(), pa.large_string()),
        structs([10, 20], path_type=pa.null()),
        pa.array([grey(10), grey(20)], pa.binary()),
        pa.array([grey(10), grey(20)], pa.large_binary()),
        pa.array([{"path": "x", "bytes": grey(10)}, {"path": None, "bytes": grey(20)}]),
        pa.array([grey(10), grey(20)]).dictionary_encode(),
    ],
)
@pytest.mark.parametrize(
    "labels", [pa.array([1, 0], pa.int8()), pa.array([1, 0], pa.uint64()), pa.array([True, False])]
)
def test_shards_of_different_types_are_one_split(tmp_path: Path, images: pa.Array, labels: pa.Array):
    shard(tmp_path / "train-0.parquet", structs([30, 40]), whole([0, 1]))
    shard(tmp_path / "train-1.parquet", images, labels)
    shard(tmp_path / "test.parquet", images, labels)
    source = open_source(str(tmp_path))
    assert values(source.train) == [30, 40, 10, 20]
    assert source.train.labels.tolist() == [0, 1, 1, 0]
    again = pickle.loads(pickle.dumps(source.train))  # as sent to a worker
    assert decode(again, 3, View(4)).max() == 20
    assert source.train.name(2).startswith(f"{tmp_path}/train-1.parquet, row 0")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_labels_that_are_names_number_the_classes(tmp_path: Path, kind: pa.DataType):
    shard(tmp_path / "train-0.parquet", structs([10, 20]), pa.array(["dog", "cat"]).cast(kind))
    shard(tmp_path / "train-1.parquet", structs([30]), pa.array(["ant"]).cast(kind))
    shard(tmp_path / "test.parquet", structs([10]), pa.array(["dog"]).cast(kind))
    source = open_source(str(tmp_path))
    assert source.classes == ("ant", "cat", "dog")
    assert source.train.labels.tolist() == [2, 1, 0]
    assert source.val.labels.tolist() == [2]


def test_numbers_beside_names_are_refused(tmp_path: Path):
    shard(tmp_path / "train.parquet", structs([10, 20]), pa.array(["dog", "cat"]))
    shard(tmp_path / "test.parquet", structs([10]), whole([0]))
    with pytest.raises(UsageError, match="its class names are not those of the first shards"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pa.array([0, None], pa.int64()), "row 1: there is no label in column 'label'"),
        (pa.nulls(2), "row 0: there is no label"),
        (pa.array([0.0, 1.0]), "holds double, not whole numbers or class names"),
        (pa.array([[0], [1]]), "holds list"),
        (pa.array([0, 2**63], pa.uint64()), "numbers too large"),
        (whole([0, 2**62]), "label 4611686018427387904 is too large"),
        (whole([0, -5]), r"row 1 \(20.png\) has label -5"),
        (whole([-1, -5]), r"row 0 \(10.png\) has label -1"),
    ],
)
def test_labels_that_number_nothing_are_refused(tmp_path: Path, labels: pa.Array, message: str):
    for split in ("train", "test"):
        shard(tmp_path / f"{split}.parquet", structs([10, 20]), labels)
    with pytest.raises(UsageError, match=message):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pa.array(["x.png", "y.png"]), "holds string, not the bytes of pictures"),
        (pa.array([{"path": "x.png"}] * 2), "not the bytes of pictures"),
        (pa.array([[1], [2]]), "not the bytes of pictures"),
        (pa.nulls(2), "row 0: there are no bytes of a picture"),
        (
            pa.array([{"bytes": grey(1), "path": "a"}, {"bytes": None, "path": "b.png"}]),
            r"row 1 \(b.png\): there are no",
        ),
        (pa.array([{"bytes": grey(1), "path": "a"}, None]), "row 1: there are no bytes of a picture"),
    ],
)
def test_columns_without_pictures_are_refused(pair: Path, images: pa.Array, message: str):
    shard(pair / "train.parquet", images, whole([0, 1]), class_label(["cat", "dog"]))
    with pytest.raises(UsageError, match=message):
        open_source(str(pair))


@pytest.mark.parametrize("stored", [b"null", b"{}", b'{"info": null}', b'{"info": {"features": {"label": null}}}'])
def test_metadata_that_names_no_class_numbers_them(pair: Path, capsys: pytest.CaptureFixture[str], stored: bytes):
    for split in ("train", "test"):
        shard(pair / f"{split}.parquet", structs([10, 20]), whole([0, 1]), {b"huggingface": stored})
    assert open_source(str(pair)).classes == ("0", "1")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "stored", [b"[]", b"no JSON", b"\xff\xfe", b'{"info": {"features": []}}', b"[" * 5000, b'{"info']
)
def test_metadata_of_another_form_is_told(pair: Path, capsys: pytest.CaptureFixture[str], stored: bytes):
    shard(pair / "train.parquet", structs([10, 20]), whole([0, 1]), {b"huggingface": stored})
    shard(pair / "test.parquet", structs([10]), whole([0]))
    assert open_source(str(pair)).classes == ("0", "1")
    said = capsys.readouterr().err
    assert "train.parquet: its class names cannot be read, classes are numbered (huggingface metadata: " in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("names", [[1, 2], "cat", {"0": "cat"}])
def test_names_that_are_no_list_of_names_are_told_with_their_place(pair: Path, capsys, names: object):
    shard(pair / "train.parquet", structs([10, 20]), whole([0, 1]), class_label(names))
    shard(pair / "test.parquet", structs([10]), whole([0]))
    open_source(str(pair))
    assert "$.names" in capsys.readouterr().err


def test_odd_class_names_are_kept_printable(pair: Path):
    names = ["[/x]", "two\nlines"]
    for split in ("train", "test"):
        shard(pair / f"{split}.parquet", structs([10, 20]), whole([0, 1]), class_label(names))
    assert open_source(str(pair)).classes == ("[/x]", "two\\nlines")
    assert json.dumps(names)


def test_missing_shards_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shard(tmp_path / "train-00000-of-00003.parquet", structs([10, 20]), whole([0, 1]))
    shard(tmp_path / "test-00000-of-00001.parquet", structs([10]), whole([0]))
    open_source(str(tmp_path))
    assert "1 of the 3 shards such as train-00000-of-00003.parquet are there" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["empty", "cut", "footer", "two columns", "no column"])
def test_a_damaged_shard_is_named(pair: Path, damage: str):
    shard(pair / "train-0.parquet", structs([10, 20]), whole([0, 1]))
    file = (pair / "train.parquet").rename(pair / "train-1.parquet")
    content = file.read_bytes()
    if damage == "two columns":
        table = pq.read_table(file)
        pq.write_table(table.append_column("label", table["label"]), file)
    elif damage == "no column":
        pq.write_table(pq.read_table(file).drop_columns(["label"]), file)
    else:
        start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        footer = content[:start] + bytes(32) + content[start + 32 :]
        broken = {"empty": b"", "cut": content[:-1], "footer": footer}
        put(file, broken[damage])
    with pytest.raises(UsageError, match=r"train-1\.parquet"):
        open_source(str(pair))


def test_pages_that_carry_a_checksum_are_checked(pair: Path):
    file = pair / "train.parquet"
    table = pq.read_table(file)
    pq.write_table(
        table, file, compression="none", write_page_checksum=True, use_dictionary=False, write_statistics=False
    )
    content = file.read_bytes()
    end = content.find(grey(20)) + len(grey(20))
    put(file, content[: end - 20] + bytes(8) + content[end - 12 :])
    with pytest.raises(UsageError, match=r"train\.parquet: not a readable parquet file \(.*CRC"):
        open_source(str(pair))


def test_a_picture_that_declares_gigabytes_is_refused_before_it_takes_them(pair: Path):
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + grey(1)[33:]
    shard(pair / "train.parquet", pa.array([bomb, bomb]), whole([0, 1]), class_label(["cat", "dog"]))
    with pytest.raises(FailedError, match=r"train\.parquet, row 0 cannot be decoded as an image: "):
        decode(open_source(str(pair)).train, 0, View(8))
