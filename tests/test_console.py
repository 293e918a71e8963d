"""What is printed: the user's text as it is, on any stream."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from crosslayer.console import console, errors, plain, print_json
from crosslayer.files import write_text
from tests.data.strategies import MARKED, grey, put


@pytest.mark.parametrize("name", MARKED)
def test_a_users_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], name: str):
    table = Table(name, title=name)
    table.add_row(name)
    errors.print(name)
    console.print(table)
    captured = capsys.readouterr()
    for line in name.split("\n"):
        assert plain(line) in captured.err
        assert captured.out.count(plain(line)) == 3


def test_plain():
    assert plain("caf\udce9 [x]\r\n\x1b\u2028é :dog: 日本") == "caf\\udce9 [x]\\r\\n\\x1b\\u2028é :dog: 日本"
    assert plain(Path("a b")) == "a b"


def test_text_that_is_no_unicode_is_written(tmp_path: Path):
    write_text(tmp_path / "x", "caf\udce9 é")
    assert (tmp_path / "x").read_bytes() == "caf\\udce9 é".encode()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.sampled(2)
def test_an_encoding_without_the_letters_ends_no_command(encoding: str):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-m", "crosslayer", "list"], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(encoding)
    assert b"Backbones: " in done.stdout


@pytest.mark.exhaustive
def test_names_that_an_encoding_has_not_end_no_training(tmp_path: Path):
    for split in ("train", "val"):
        for name in ("[/x] :dog: 日本", "caf\udce9"):
            for i in range(4):
                put(tmp_path / split / name / f"{i} →.png", grey(60 * i))
    words = ["train", "--data", tmp_path, "--output", tmp_path / "run [b] 日本", "--epochs", 1, "--batch-size", 4]
    words += ["--image-size", 8, "--device", "cpu", "--workers", 1, "--backbone", "cifar_resnet20"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "crosslayer", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode("ascii")
    assert "\\u65e5\\u672c" in done.stdout.decode("ascii")


def test_json_has_no_word_for_what_is_not_finite(capsys: pytest.CaptureFixture[str]):
    print_json({"loss": float("nan"), "scores": [float("inf"), 1.5], "name": "\udc80é"})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "scores": [None, 1.5], "name": "\udc80é"}
