"""Every file of a run flipped, cut, or replaced: told in one sentence, by whatever command reads it."""

import json
import random
from pathlib import Path

import pytest

from crosslayer.training.checkpoint import path_of, saved_steps, weights_of
from tests.cases import each_once
from tests.faults.conftest import Sound, assert_told

RECORDS = ("recipe.json", "environment.json", "metrics.jsonl", "summary.json")
DEEP = b"[" * 100_000 + b"]" * 100_000
REPLACEMENTS: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "number": b"7",
    "text": b'"run"',
    "true": b"true",
    "no object": b"{",
    "empty object": b"{}",
    "not UTF-8": b"\xff\xfe{}",
    "NaN": b'{"epoch": NaN, "recipe": NaN, "machine": NaN, "last": NaN}',
    "zeros": b"\0" * 512,
    "deep": DEEP,
    "deep within": b'{"recipe": ' + DEEP + b', "name": "digits", "data": {}}',
    "a huge number": b'{"epoch": 1' + b"0" * 5000 + b"}",
    "html": b"<html><body>404</body></html>",
    "utf-16": '{"epoch": 1}'.encode("utf-16"),
    "words": b"\n\n\n",
}
ODD = (None, [], {}, "x", -1, 0, 1e308, 10**40, True, [None], {"a": [1]}, "", 0.5)


def readers(run: Path, image_tree: Path) -> dict[str, tuple[object, ...]]:
    """Commands that read a run."""
    picture = next((image_tree / "val").rglob("*.png"))
    return {
        "verify": ("verify", run),
        "compare": ("compare", run),
        "report": ("report", run, "--output", run.parent / "report.html"),
        "evaluate": ("evaluate", run, "--device", "cpu", "--output", run.parent / "evaluation", "--workers", 0),
        "predict": ("predict", run, picture, "--device", "cpu"),
        "attention": ("attention", run, "--device", "cpu", "--output", run.parent / "attention"),
        "train": ("train", "--resume", run, "--epochs", 4, "--device", "cpu", "--workers", 0),
    }


READ = {
    "recipe.json": ("verify", "compare", "report", "evaluate", "predict", "attention", "train"),
    "environment.json": ("verify", "report"),
    "metrics.jsonl": ("verify", "report", "train"),
    "summary.json": ("verify", "compare"),
}


@pytest.mark.parametrize(("name", "kind"), each_once(RECORDS, [*REPLACEMENTS]))
def test_other_content(crosslayer, sound: Sound, image_tree: Path, tmp_path: Path, name: str, kind: str):
    run = sound.copy(tmp_path / "run")
    (run / name).write_bytes(REPLACEMENTS[kind])
    for command in READ[name]:
        code, _, err = crosslayer(*readers(run, image_tree)[command])
        if (name, kind) in {("environment.json", "empty object"), ("summary.json", "empty object")} and code == 0:
            continue  # nothing is said, and nothing of it is needed
        assert_told(code, err)
        assert name in err, (command, err)


@pytest.mark.parametrize("name", RECORDS)
def test_a_folder_instead(crosslayer, sound: Sound, image_tree: Path, tmp_path: Path, name: str):
    run = sound.copy(tmp_path / "run")
    (run / name).unlink()
    (run / name).mkdir()
    for command in READ[name]:
        code, _, err = crosslayer(*readers(run, image_tree)[command])
        assert_told(code, err)
        assert name in err, (command, err)


@pytest.mark.faults
@pytest.mark.parametrize("name", RECORDS)
def test_odd_values(crosslayer, sound: Sound, image_tree: Path, tmp_path: Path, name: str):
    """Every value of every record taken away, or another: no traceback, whatever reads it."""
    run = sound.copy(tmp_path / "run")
    whole = (run / name).read_text()
    lines = whole.splitlines() if name == "metrics.jsonl" else [whole]
    for way in ways_into(json.loads(lines[-1])):
        for value in (..., *ODD):
            content = json.loads(lines[-1])
            put(content, way, value)
            (run / name).write_text("".join(line + "\n" for line in [*lines[:-1], json.dumps(content)]))
            for command in ("verify", "compare", "report", "predict"):
                told = crosslayer(*readers(run, image_tree)[command])
                assert told[0] in (0, 1, 2), (way, value, told)
                assert "Traceback" not in told[2]
                assert len(told[2].strip().splitlines()) <= 3, (way, value, told)


def ways_into(content: object, way: tuple = ()) -> list[tuple]:
    """Where a record has values."""
    if not isinstance(content, dict):
        return [way]
    return [way, *(inner for name, value in content.items() for inner in ways_into(value, (*way, name)))][not way :]


def put(content: dict, way: tuple, value: object) -> None:
    *outer, last = way
    for name in outer:
        content = content[name]
    if value is ...:
        del content[last]
    else:
        content[last] = value


def flips(size: int, count: int, seed: int) -> list[int]:
    """Bytes to flip: the first, those of the digest at the end, and others by chance."""
    chance = random.Random(seed)
    last = range(size - 90, size, 1 if count > 100 else 30)
    return sorted({0, size - 1, *last, *(chance.randrange(size) for _ in range(count))})


@pytest.mark.parametrize("count", [3, pytest.param(400, marks=pytest.mark.faults)])
def test_every_flipped_byte_of_a_checkpoint_is_told(crosslayer, sound: Sound, tmp_path: Path, count: int):
    run = sound.copy(tmp_path / "run")
    last = path_of(run / "checkpoints", saved_steps(run / "checkpoints")[-1])
    for file in (last, weights_of(last)):
        whole = file.read_bytes()
        for at in flips(len(whole), count, 0):
            changed = bytearray(whole)
            changed[at] ^= 1 << (at % 8)
            file.write_bytes(changed)
            code, _, err = crosslayer("verify", run)
            assert_told(code, err, 1)
            assert file.name in err
        file.write_bytes(whole)
    assert crosslayer("verify", run)[0] == 0


@pytest.mark.parametrize("count", [3, pytest.param(60, marks=pytest.mark.faults)])
def test_a_damaged_checkpoint_is_no_ones(crosslayer, sound: Sound, image_tree: Path, tmp_path: Path, count: int):
    """Whoever reads it refuses it, and tells which is the one before; which then does."""
    run = sound.copy(tmp_path / "run")
    *_, earlier, last = (path_of(run / "checkpoints", step) for step in saved_steps(run / "checkpoints"))
    whole = last.read_bytes()
    chance = random.Random(1)
    for number in range(count):
        at = chance.randrange(len(whole))
        changed = bytearray(whole)
        changed[at] ^= 1 << chance.randrange(8)
        last.write_bytes(changed if number % 2 else whole[:at])
        for command in ("evaluate", "predict", "attention", "train"):
            code, _, err = crosslayer(*readers(run, image_tree)[command])
            assert_told(code, err, 1)
            assert str(last) in err
            assert earlier.name in err
    last.unlink()
    code, _, err = crosslayer("train", "--resume", run, "--device", "cpu", "--workers", 0)
    assert code == 0, err
    assert crosslayer("verify", run)[0] == 0


@pytest.mark.faults
def test_every_cut_and_flip_of_any_file(crosslayer, sound: Sound, image_tree: Path, tmp_path: Path):
    run = sound.copy(tmp_path / "run")
    names = sorted(file for file in run.rglob("*") if file.is_file())
    for file in names:
        whole = file.read_bytes()
        chance = random.Random(file.name)
        for number in range(24):
            at = chance.randrange(len(whole))
            changed = bytearray(whole)
            changed[at] ^= 1 << chance.randrange(8)
            file.write_bytes(changed if number % 2 else whole[:at])
            for command in ("verify", "compare", "report", "predict"):
                code, _, err = crosslayer(*readers(run, image_tree)[command])
                assert code in (0, 1, 2), err
                assert "Traceback" not in err
                assert len(err.strip().splitlines()) <= 3
        file.write_bytes(whole)


def test_checkpoints_of_before_have_no_digest(crosslayer, sound: Sound, image_tree: Path, tmp_path: Path):
    import torch

    run = sound.copy(tmp_path / "run")
    last = path_of(run / "checkpoints", saved_steps(run / "checkpoints")[-1])
    content = torch.load(last)
    content["format"] = "crosslayer checkpoint 3"
    del content["weights_sha256"], content["progress"]["passing"]
    torch.save(content, last)
    code, _, err = crosslayer("predict", run, next(image_tree.rglob("*.png")), "--device", "cpu")
    assert code == 0
    assert err.count("\n") == 1
    assert "has no digest" in err
    content["format"] = "crosslayer checkpoint 4"
    torch.save(content, last)
    code, _, err = crosslayer("predict", run, next(image_tree.rglob("*.png")), "--device", "cpu")
    assert code == 1
    assert "truncated or damaged" in err


def test_metrics_that_do_not_belong_to_the_checkpoint(crosslayer, sound: Sound, tmp_path: Path):
    run = sound.copy(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[1:]))
    code, _, err = crosslayer("train", "--resume", run, "--epochs", 4, "--device", "cpu")
    assert_told(code, err, 1)
    assert "lacks epochs" in err
    assert crosslayer("verify", run)[0] == 1
    (run / "metrics.jsonl").write_text("".join(reversed(lines)))
    code, _, err = crosslayer("verify", run)
    assert "line 2" in err
    (run / "metrics.jsonl").unlink()
    assert crosslayer("verify", run)[0] == 1
