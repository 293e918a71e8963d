"""Tables and pictures of runs whose results are known."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
import torch

from crosslayer.reproduce import attention, significance, tables
from crosslayer.reproduce.render import reduced_by, render
from crosslayer.reproduce.results import lines_of
from crosslayer.reproduce.studies import find_study
from crosslayer.training.recipes import RECIPES
from tests.reproduce.made import finish, planned

ONLY = ("cifar100", "cifar_resnet20", "none", "se", "eca", "dla_l")


def table1(output: Path, **rest: object):
    """Plain: within; SE: above; ECA: below; DLA-L: not run. The paper has 67.30 ± 0.28, 68.93 ± 0.35, 67.23 ± 0.24."""
    runs = planned(output, only=ONLY, **rest)
    values = {"none": (67.1, 67.9), "se": (70.0, 70.2), "eca": (60.0, 60.4)}
    for run in runs:
        if run.cell.mechanism in values:
            finish(run, [10.0, 71.0, values[run.cell.mechanism][run.recipe.seed]])
    return runs


def test_numbers_and_verdicts(tmp_path: Path):
    plain, se, eca, dla = lines_of(table1(tmp_path))
    assert plain.last is not None
    assert plain.last.mean == pytest.approx(67.5)
    assert plain.last.std == pytest.approx(0.8 / math.sqrt(2))
    assert plain.best is not None
    assert plain.best.mean == 71.0
    assert plain.difference == pytest.approx(0.2)
    assert plain.combined_std == pytest.approx(math.hypot(0.8 / math.sqrt(2), 0.28))
    assert [line.verdict for line in (plain, se, eca, dla)] == ["within one std", "above", "below", "not run"]


def test_one_seed_has_no_std(tmp_path: Path):
    (run,) = planned(tmp_path, seeds=(0,), only=("cifar100", "cifar_resnet20", "none"))
    finish(run, [67.5])
    (line,) = lines_of([run])
    assert line.last is not None
    assert line.last.std is None
    assert line.combined_std == 0.28
    assert line.verdict == "within one std"
    assert tables.texts(line, "")[3] == "67.50"


def test_a_metric_that_runs_lack_is_told(crosslayer, tmp_path: Path):
    (run,) = planned(tmp_path, "table2", (0,), only=("resnet50", "se"))
    finish(run, [70.0])
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    (run.path / "metrics.jsonl").write_text(json.dumps({k: v for k, v in rows[0].items() if k != "val/top5"}) + "\n")
    words = ("table2", "--seeds", 0, "--only", "resnet50", "se", "--render", "--output", tmp_path)
    code, _, err = crosslayer("reproduce", *words)
    assert code == 1
    assert "has no metric 'val/top5'" in err


def test_markdown_csv_latex(tmp_path: Path):
    study, lines = find_study("table1"), lines_of(table1(tmp_path))
    markdown = tables.as_markdown(study, lines, "")
    assert (
        "| ResNet-20, CIFAR-100 | none | top-1 (%) | 67.50 ± 0.57 | 71.00 ± 0.00 | 67.30 ± 0.28 | +0.20 |" in markdown
    )
    assert "REDUCED" not in markdown
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(lines, ""))))
    assert [row["verdict"] for row in rows] == ["within one std", "above", "below", "not run"]
    assert float(rows[0]["last_mean"]) == pytest.approx(67.5)
    assert (rows[3]["last_mean"], rows[3]["seeds"], rows[3]["seeds_planned"]) == ("", "0", "2")
    latex = tables.as_latex(study, lines, "")
    assert r"dla\_l & top-1 (\%)" in latex
    assert latex.count(r"\\") == 1 + len(lines)
    assert "±" not in latex


def test_no_letter_means_anything_to_latex():
    commands = {"\\": "textbackslash", "~": "textasciitilde", "^": "textasciicircum"}
    commands |= {"<": "textless", ">": "textgreater", "|": "textbar"}
    for letter in "&%_#${}":
        assert tables.escaped(f"a{letter}b") == f"a\\{letter}b"
    for letter, command in commands.items():
        assert tables.escaped(f"a{letter}b") == f"a\\{command}{{}}b"
    assert tables.escaped("two words, 3.5 (x)") == "two words, 3.5 (x)"


def test_a_reduced_study_says_so_everywhere(tmp_path: Path):
    runs = table1(tmp_path, epochs=3)
    files = render(find_study("table1"), runs, tmp_path, "cpu")
    text = {file.suffix: file.read_text() for file in files if file.suffix != ".png"}
    for content in text.values():
        assert "epochs 3 (recipe: 180)" in content
    assert "above (reduced)" in text[".md"]
    assert "not comparable" in json.loads((tmp_path / "table1.study.json").read_text())["reduced"]


def test_pictures(tmp_path: Path):
    runs = planned(tmp_path, "figure4", only=("none", "dla_l"))
    for run in runs:
        finish(run, [50.0 + run.recipe.seed, 60.0])
    files = {file.name: file for file in render(find_study("figure4"), runs, tmp_path, "cpu")}
    assert {"figure4-curves.png", "figure4-depth.png", "figure4-cost.png"} < files.keys()
    for name in files:
        assert not name.endswith("png") or files[name].read_bytes().startswith(b"\x89PNG")


def test_a_question_is_answered_against_its_baseline(tmp_path: Path):
    runs = planned(tmp_path, "cell", (0, 1, 2), only=("cifar_resnet20",))
    for run in runs:
        better = "reduction=2" in run.cell.options
        finish(run, [70 + 0.1 * run.recipe.seed + 5 * better])
    study, lines = find_study("cell"), lines_of(runs)
    markdown = tables.as_markdown(study, lines, reduced_by(runs))
    assert "## Against released, r = 4" in markdown
    base = "released, r = 4"
    assert f"| printed, r = 4 | {base} | +0.00 | -0.23 to +0.23 | 1 | 1 | 3 and 3 | no difference shown |" in markdown
    assert f"| printed, r = 2 | {base} | +5.00 | +4.77 to +5.23 |" in markdown
    assert "3 and 3 | better |" in markdown


def test_a_question_without_seeds_is_not_tested(tmp_path: Path):
    runs = planned(tmp_path, "context", (0,), only=("cifar_resnet20",))
    for run in runs:
        finish(run, [70.0])
    assert "no test: it needs two seeds of each" in tables.as_markdown(find_study("context"), lines_of(runs), "")


def test_other_data_than_the_published_are_told(tmp_path: Path):
    runs = planned(tmp_path, seeds=(0, 1, 2), only=("cifar100", "cifar_resnet20", "none"))
    for run in runs:
        finish(run, [70.0])
    assert reduced_by(runs) == ""
    recipe = json.loads((runs[0].path / "recipe.json").read_text())
    recipe["data"]["classes"] = ["cat", "dog"]
    (runs[0].path / "recipe.json").write_text(json.dumps(recipe))
    row = json.loads((runs[1].path / "metrics.jsonl").read_text())
    (runs[1].path / "metrics.jsonl").write_text(json.dumps(row | {"step": 130}) + "\n")
    assert reduced_by(runs) == ("data with 2 classes (data set: 100); about 16,640 training images (data set: 50,000)")


def test_every_two_are_tested_and_corrected_for_their_number(tmp_path: Path):
    """At 0.1 points apart in three seeds of std 0.1, p is 0.29; far apart it is small even times three."""
    runs = planned(tmp_path, "budget", (0, 1, 2), only=("none", "se", "dla_l"))
    for run in runs:
        base = {"none": 60.0, "se": 60.1, "dla_l": 65.0}[run.cell.mechanism]
        finish(run, [base + 0.1 * run.recipe.seed])
    rows = significance.answer_rows(find_study("budget"), lines_of(runs))
    assert [row[1:3] for row in rows] == [("se", "none"), ("dla_l", "none"), ("dla_l", "se")]
    assert [row[-1] for row in rows] == ["no difference shown", "better", "better"]
    assert float(rows[0][5]) == pytest.approx(0.288, abs=0.003)
    assert rows[0][5] == rows[0][6], "the largest of three is not multiplied"


def test_another_recipe_may_train_a_study(crosslayer, tmp_path: Path):
    runs = planned(tmp_path, "norm_start", (0,), recipe="cifar100_budget", only=("cifar_resnet20",))
    shared = planned(tmp_path, "budget", (0,), only=("mrla_l",))
    assert {run.recipe.epochs for run in runs} == {RECIPES["cifar100_budget"]().epochs}
    assert shared[0].path in {run.path for run in runs}
    assert not any(run.changed for run in runs)
    for recipe, said in (("cifar_budget", "cifar100_budget"), ("coco_faster", "another task")):
        code, _, err = crosslayer("reproduce", "table1", "--recipe", recipe, "--dry-run", "--output", tmp_path)
        assert code == 2
        assert said in err


def test_spread_of_attention_is_told_in_numbers(tmp_path: Path):
    """One stage of three blocks: rows 2 and 3 of four images, one-hot in half of them and even in the others."""
    half = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    look = attention.Look("dla_b", [torch.eye(3)], [half])
    rows = attention.spread_rows([look])
    assert rows == [("dla_b", "1", "0.500", "0.577")]
    study = find_study("figure2")
    markdown = tables.as_markdown(study, lines_of(planned(tmp_path, "figure2")), "", rows)
    assert "| dla_b | 1 | 0.500 | 0.577 |" in markdown
    assert attention.NOTE in markdown
