"""The other commands, on a run that has learned to tell dark pictures from bright ones."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from crosslayer.cli import COMMANDS
from tests.conftest import QUICK


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, image_tree: Path) -> dict[str, Path]:
    from crosslayer.cli import main

    root = tmp_path_factory.mktemp("runs")
    for mechanism in ("dla_l", "mrla_b", "se"):
        words = ["train", "--data", image_tree, "--output", root / mechanism, "--mechanism", mechanism, *QUICK]
        assert main([str(word) for word in [*words, "--epochs", 5, "--batch-size", 4, "--lr", 0.02]]) == 0
    return {path.name: path for path in root.iterdir()}


def test_evaluate(crosslayer, runs: dict[str, Path], image_tree: Path, tmp_path: Path):
    code, out, err = crosslayer("evaluate", runs["se"], "--output", tmp_path, "--batch-size", 4)
    assert code == 0, err
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    summary = json.loads((runs["se"] / "summary.json").read_text())
    assert figures["top1"] == pytest.approx(summary["last"]["val/top1"])
    assert figures["top5"] == 100
    assert figures["images"] == 6 == sum(map(sum, figures["confusion"]))
    assert figures["per_class"].keys() == {"bright", "dark"}
    assert f"top-1 {figures['top1']:.2f} %" in out
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    again = crosslayer("evaluate", runs["se"], "--data", image_tree, "--checkpoint", "best", "--output", tmp_path)
    assert again[0] == 0


def test_evaluate_refuses_other_classes(crosslayer, runs: dict[str, Path]):
    code, _, err = crosslayer("evaluate", runs["se"], "--data", "digits")
    assert code == 2
    assert "has 10 classes (0, …), the run was trained on 2 (bright, …)" in err


def test_predict(crosslayer, runs: dict[str, Path], image_tree: Path, tmp_path: Path):
    files = sorted((image_tree / "val").rglob("*.png"))
    code, out, err = crosslayer("predict", runs["se"], *files)
    assert code == 0, err
    lines = out.splitlines()
    guesses = []
    for i, file in enumerate(files):
        name, first, second = lines[3 * i : 3 * i + 3]
        assert name == str(file)
        assert float(first.split()[0]) >= float(second.split()[0])
        assert float(first.split()[0]) + float(second.split()[0]) == pytest.approx(100, abs=0.02)
        guesses.append(first.split()[-1])
    right = sum(guess == file.parent.name for guess, file in zip(guesses, files, strict=True))
    summary = json.loads((runs["se"] / "summary.json").read_text())
    assert 100 * right / 6 == pytest.approx(summary["last"]["val/top1"])
    Image.new("RGBA", (8, 90), (1, 2, 3, 255)).save(tmp_path / "narrow.webp")
    assert crosslayer("predict", runs["se"], tmp_path / "narrow.webp")[0] == 0


def test_predict_names_a_bad_file(crosslayer, runs: dict[str, Path], tmp_path: Path):
    code, _, err = crosslayer("predict", runs["se"], tmp_path / "absent.png")
    assert code == 2
    assert "there is no image file" in err
    (tmp_path / "text.png").write_text("hello")
    code, _, err = crosslayer("predict", runs["se"], tmp_path / "text.png")
    assert code == 1
    assert "text.png cannot be decoded as an image" in err


def test_predict_looks_at_folders(crosslayer, runs: dict[str, Path], image_tree: Path, tmp_path: Path):
    shutil.copytree(image_tree / "val", tmp_path / "b")
    shutil.copy(image_tree / "val" / "dark" / "0.png", tmp_path / "b" / "A.PNG")
    for other in ("notes.txt", "bright/table.csv", ".hidden.png"):
        (tmp_path / "b" / other).write_text("no image")
    single = image_tree / "val" / "dark" / "1.png"
    code, out, err = crosslayer("predict", runs["se"], single, tmp_path / "b", "--device", "cpu")
    assert code == 0, err
    below = ["A.PNG", "bright/0.png", "bright/1.png", "bright/2.png", "dark/0.png", "dark/1.png", "dark/2.png"]
    files = [str(single), *(str(tmp_path / "b" / name) for name in below)]
    assert [line for line in out.splitlines() if not line.startswith(" ")] == files
    assert f"{tmp_path / 'b'}: skipped 3 entries that are no images" in err
    (tmp_path / "empty").mkdir()
    code, out, err = crosslayer("predict", runs["se"], tmp_path / "empty")
    assert (code, out) == (2, "")
    assert f"there is no image file below {tmp_path / 'empty'}" in err


def test_predict_as_json(crosslayer, runs: dict[str, Path], image_tree: Path):
    words = ("predict", runs["se"], image_tree / "val", "--device", "cpu")
    lines = crosslayer(*words)[1].splitlines()
    code, out, err = crosslayer(*words, "--json")
    assert code == 0, err
    content = json.loads(out)
    assert content["run"] == str(runs["se"])
    assert content["step"] == json.loads((runs["se"] / "summary.json").read_text())["steps"]
    said = []
    for image in content["images"]:
        said += [image["file"], *(f"  {100 * c['probability']:6.2f} %  {c['class']}" for c in image["classes"])]
    assert said == lines == err.splitlines()
    code, out, _ = crosslayer("predict", runs["se"], "absent.png", "--json")
    assert (code, out) == (2, "")


def test_evaluate_as_json(crosslayer, runs: dict[str, Path], tmp_path: Path):
    code, out, err = crosslayer("evaluate", runs["se"], "--output", tmp_path, "--json")
    assert code == 0, err
    assert json.loads(out) == json.loads((tmp_path / "evaluation.json").read_text())
    assert "top-1" in err


def test_attention_of_one_run(crosslayer, runs: dict[str, Path], tmp_path: Path):
    code, _, err = crosslayer("attention", runs["dla_l"], "--output", tmp_path / "drawn")
    assert code == 0, err
    (content,) = json.loads((tmp_path / "drawn" / "attention.json").read_text())
    assert content["mechanism"] == "dla_l"
    assert len(content["stages"]) == 3
    for matrix in content["stages"]:
        assert matrix[0] == pytest.approx([1, 0])
        assert sum(matrix[1]) == pytest.approx(1)
    assert (tmp_path / "drawn" / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_attention_of_two_runs_on_files(crosslayer, runs: dict[str, Path], image_tree: Path, tmp_path: Path):
    files = sorted((image_tree / "val").rglob("*.png"))
    code, _, err = crosslayer("attention", runs["mrla_b"], runs["dla_l"], *files, "--output", tmp_path / "drawn")
    assert code == 0, err
    content = json.loads((tmp_path / "drawn" / "attention.json").read_text())
    assert [run["mechanism"] for run in content] == ["mrla_b", "dla_l"]


def test_attention_needs_layer_attention(crosslayer, runs: dict[str, Path], tmp_path: Path):
    code, _, err = crosslayer("attention", runs["se"], "--output", tmp_path / "drawn")
    assert code == 2
    assert "se: its mechanism has no attention over layers" in err
    assert not (tmp_path / "drawn").exists()


def test_compare(crosslayer, runs: dict[str, Path], tmp_path: Path):
    code, out, err = crosslayer("compare", runs["se"], runs["dla_l"])
    assert code == 0, err
    assert "dla_l" in out
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs["se"], unfinished)
    (unfinished / "summary.json").unlink()
    code, _, err = crosslayer("compare", unfinished)
    assert code == 2
    assert "is not finished" in err


def test_profile(crosslayer):
    code, out, _ = crosslayer("profile", "cifar_resnet20", "--mechanism", "dla_l", "--json")
    assert code == 0
    figures = json.loads(out)
    assert figures["parameters"] == 410158
    assert [part["name"] for part in figures["parts"]] == ["stem", "stage 1", "stage 2", "stage 3", "classifier"]
    code, out, _ = crosslayer("profile", "cifar_resnet20")
    assert code == 0
    assert "0.2204" in out
    code, _, err = crosslayer("profile", "cifar_resnet21")
    assert code == 2
    assert "did you mean" in err


def test_profile_knows_the_size_of_images(crosslayer):
    for backbone, size in (("cifar_resnet20", 32), ("resnet18", 224)):
        code, out, _ = crosslayer("profile", backbone, "--json")
        assert code == 0
        assert json.loads(out)["image_size"] == size
    assert json.loads(crosslayer("profile", "resnet18", "--image-size", 64, "--json")[1])["image_size"] == 64


@pytest.mark.exhaustive
def test_profile_beside_the_paper(crosslayer):
    code, out, err = crosslayer("profile", "--table2", "--json")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert len(rows) == 19
    assert all(row["parameters_agree"] for row in rows if row["mechanism"] not in ("a2", "aa", "gc"))
    code, out, err = crosslayer("profile", "--table1")
    assert code == 0, err
    assert out.count("yes") == 39


def test_profile_of_detectors_beside_the_paper(crosslayer, monkeypatch):
    from crosslayer.reports import detector_sizes

    rows = [row for row in detector_sizes.TABLE_3 if row.backbone == "resnet50" and row.mechanism in ("none", "dla_l")]
    monkeypatch.setattr(detector_sizes, "TABLE_3", rows)
    code, out, err = crosslayer("profile", "--table3", "--json")
    assert code == 0, err
    measured = json.loads(out)["rows"]
    stem_and_first_stage = 9_536 + 215_808
    assert measured[0]["parameters"] - measured[0]["learning_parameters"] == stem_and_first_stage
    assert all(row["parameters_agree"] for row in measured)
    code, out, err = crosslayer("profile", "--table3")
    assert code == 0, err
    assert out.count("yes") == 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "name a BACKBONE"),
        (["--table1", "--table2"], "not for several"),
        (["--table3", "--table2"], "not for several"),
        (["--table3", "resnet50"], "leave out BACKBONE"),
        (["resnet50", "--table2"], "leave out BACKBONE"),
        (["--table2", "--mechanism", "se"], "leave out BACKBONE"),
        (["resnet50", "--image-size", 0], "--image-size is 0"),
    ],
)
def test_profile_tells_what_it_needs(crosslayer, words: list[object], sentence: str):
    code, _, err = crosslayer("profile", *words)
    assert code == 2
    assert sentence in err


def test_list(crosslayer):
    code, out, _ = crosslayer("list")
    assert code == 0
    for name in ("dla_l", "dianet", "cifar_resnet164", "cifar100", "context=per_sample"):
        assert name in out


def test_list_papers(crosslayer, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    code, out, _ = crosslayer("list", "--papers")
    assert code == 0
    for word in ("attnres", "2603.15031", "dla_l", "2406.13392", "yes", "2*c + 1"):
        assert word in out
    assert "cifar_resnet164" not in out
    (row,) = [line for line in out.splitlines() if "2603.15031" in line]  # where nothing wraps, as in a pipe
    assert len(row.split("│")) == 12
    monkeypatch.setenv("COLUMNS", "100")
    assert max(map(len, crosslayer("list", "--papers")[1].split("Parameters are")[0].splitlines())) <= 100


@pytest.mark.parametrize("command", COMMANDS)
def test_help(crosslayer, command: str):
    code, out, _ = crosslayer(command, "--help")
    assert code == 0
    assert "--help" in out


def test_help_and_version(crosslayer):
    assert crosslayer("--help")[0] == 0
    assert crosslayer()[0] == 2
    assert crosslayer("--version")[1].startswith("crosslayer 0.")
    code, _, err = crosslayer("tran")
    assert code == 2
    assert "unknown command 'tran'; did you mean train?" in err


@pytest.mark.parametrize("command", ["evaluate", "predict", "attention", "compare"])
def test_a_folder_without_a_run_is_told(crosslayer, tmp_path: Path, command: str):
    code, _, err = crosslayer(command, tmp_path, *(["x.png"] if command == "predict" else []))
    assert code == 2
    assert "holds no run" in err
