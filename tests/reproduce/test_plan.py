"""From what is asked for to runs."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from crosslayer.errors import UsageError
from crosslayer.models import create_model
from crosslayer.reports.paper import TABLE_1
from crosslayer.reproduce.estimate import Estimator, count_step
from crosslayer.reproduce.filters import chosen_cells, chosen_seeds, scaled, set_fields, train_words
from crosslayer.reproduce.results import read_finished
from crosslayer.reproduce.studies import STUDIES, find_study
from crosslayer.training.learner import build_model
from crosslayer.training.recipes import RECIPES
from tests.reproduce.made import finish, planned

FIGURES = {"table1": 40, "table2": 19, "table4": 4, "table5": 8, "table6": 8, "figure2": 2, "figure4": 18}


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "table3"])
@pytest.mark.sampled(3)
def test_every_study_can_be_planned_and_built(name: str, tmp_path: Path):
    runs = planned(tmp_path, name, (3,))
    assert len(runs) == len({run.path for run in runs}) == FIGURES.get(name, len(runs))
    for run in runs:
        assert run.recipe.seed == 3
        assert not run.changed
        with torch.device("meta"):
            build_model(run.recipe, 2)


def test_table3_waits_for_its_recipes(crosslayer):
    if "coco_faster" in RECIPES:
        pytest.skip("detection is here")
    code, _, err = crosslayer("reproduce", "table3")
    assert code == 2
    assert "table3 needs the recipe 'coco_faster'" in err


def test_studies_have_what_the_paper_prints():
    cells = {(cell.network, cell.variant): cell for cell in find_study("table1").cells}
    printed = cells["ResNet-56, CIFAR-100", "dla_l"].metrics[0].printed
    assert printed == (75.46, 0.26)
    assert [len(cell.metrics) for cell in find_study("table3").cells] == [6] * 30
    assert all(cell.baseline is None for cell in map(find_study, ("table1", "table2")))


@pytest.mark.slow
def test_cifar_networks_are_those_of_the_table(tmp_path: Path):
    """The published options are the defaults, so that the studies need not name them."""
    for run, row in zip(planned(tmp_path, seeds=(0,)), TABLE_1, strict=True):
        if row.backbone == "cifar_resnet110":
            continue
        with torch.device("meta"):
            ours, theirs = (
                build_model(run.recipe, row.num_classes),
                create_model(row.backbone, row.mechanism, num_classes=row.num_classes, **row.options),
            )
        assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]


def test_equal_parameters_are_as_the_page_says():
    def count(mechanism: str, **options: object) -> int:
        with torch.device("meta"):
            model = create_model("cifar_resnet20", mechanism, num_classes=100, **options)
        return sum(parameter.numel() for parameter in model.parameters())

    narrow = count("dla_l", reduction=256, stage_convolution=False)
    assert narrow - count("mrla_l") == 6278
    assert "adds 6,278 parameters" in find_study("dynamic").text
    assert (narrow - count("mrla_l")) / count("mrla_l") == pytest.approx(0.025, abs=5e-4)
    assert 1.65 < count("dla_l") / count("mrla_l") < 1.75


def test_words_for_one_thing_are_alternatives():
    study = find_study("table1")
    cells = chosen_cells(study, ("cifar100", "cifar_resnet20", "none", "dla_l"))
    assert [(cell.recipe, cell.backbone, cell.mechanism) for cell in cells] == [
        ("cifar100", "cifar_resnet20", "none"),
        ("cifar100", "cifar_resnet20", "dla_l"),
    ]
    assert [cell.variant for cell in chosen_cells(find_study("table5"), ("tanh",))] == ["tanh", "tanh"]
    assert len(chosen_cells(study, ())) == 40


@pytest.mark.parametrize(
    ("only", "sentence"),
    [
        (("dla_x",), "unknown word in table1 'dla_x'; did you mean dla_"),
        (("cifar_resnet56", "dla_b"), "leaves nothing of table1"),
    ],
)
def test_a_word_that_names_nothing_is_told(only: tuple[str, ...], sentence: str):
    with pytest.raises(UsageError, match=sentence):
        chosen_cells(find_study("table1"), only)


def test_seeds():
    assert chosen_seeds("0-4") == (0, 1, 2, 3, 4)
    assert chosen_seeds("7") == (7,)
    assert chosen_seeds("0,2,5-6,2") == (0, 2, 5, 6)
    for wrong in ("a", "4-0", "-1", ""):
        with pytest.raises(UsageError, match="write them as"):
            chosen_seeds(wrong)


def test_fewer_epochs_scale_the_schedule():
    assert scaled(RECIPES["cifar100"](), 18).milestones == (10, 15)
    assert scaled(RECIPES["cifar100"](), 2).milestones == (1,)
    assert scaled(RECIPES["imagenet"](), 10).warmup_epochs == 0
    assert scaled(RECIPES["imagenet_efficientnet"](), 35).decay_epochs == pytest.approx(0.24)
    assert scaled(RECIPES["imagenet"](), 50).warmup_epochs in (1, 2)
    assert scaled(RECIPES["imagenet_fast"](), 1).warmup_epochs == 0


def test_settings_are_read_as_train_reads_them():
    recipe = set_fields(RECIPES["cifar100"](), ("milestones=3,5", "flip=false", "batch-size=32", "precision=bf16"))
    assert (recipe.milestones, recipe.flip, recipe.batch_size, recipe.precision) == ((3, 5), False, 32, "bf16")
    with pytest.raises(UsageError, match="--set epoch=3: write it as NAME=VALUE"):
        set_fields(recipe, ("epoch=3",))


def test_a_setting_out_of_range_is_told(crosslayer):
    code, _, err = crosslayer("reproduce", "figure2", "--set", "batch_size=0")
    assert code == 2
    assert "--batch-size is 0" in err


def test_words_make_the_recipe_again(tmp_path: Path):
    (run, *_) = planned(tmp_path, "table5", (2,), epochs=2, settings=("flip=false",), data=("some/where",))
    assert train_words("cifar100", run.recipe, RECIPES["cifar100"]())[:2] == ["train", "cifar100"]
    words = run.words()
    for pair in ("--seed 2", "--options activation=identity", "--no-flip", "--milestones 1", "--data some/where"):
        assert pair in " ".join(words)
    assert set(run.changed) == {"epochs", "milestones", "flip"}


def test_studies_share_runs(tmp_path: Path):
    first = {run.path for run in planned(tmp_path, "table1", (0,))}
    again = {run.path for run in planned(tmp_path, "figure4", (0,))}
    assert again < first
    assert not first & {run.path for run in planned(tmp_path, "table1", (0,), epochs=2)}


def test_states(tmp_path: Path):
    first, second, third, *_ = planned(tmp_path)
    finish(first, [50, 60])
    finish(second, [50])
    (second.path / "summary.json").unlink()
    assert [run.state() for run in (first, second, third)] == ["finished", "broken", "absent"]
    assert second.words() == ["train", "--resume", str(second.path)]


def test_runs_of_before_compilation_was_a_choice_are_finished(tmp_path: Path):
    (run, *_) = planned(tmp_path)
    finish(run, [50])
    content = json.loads((run.path / "recipe.json").read_text())
    content["recipe"]["compile"] = False
    (run.path / "recipe.json").write_text(json.dumps(content))
    assert run.state() == "finished"


def test_another_run_in_the_way_is_told(tmp_path: Path):
    (run, *_) = planned(tmp_path)
    other = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, lr=0.3))
    finish(other, [50])
    with pytest.raises(UsageError, match=r"was made with lr 0.3, not 0.1; give another --output"):
        run.state()


def test_data_by_recipe(tmp_path: Path):
    runs = planned(tmp_path, data=("cifar10=a", "cifar100=b"))
    assert {(run.cell.recipe, run.recipe.data) for run in runs} == {("cifar10", "a"), ("cifar100", "b")}
    assert planned(tmp_path, "context", data=("digits",))[0].recipe.data == "digits"  # also a recipe's name
    with pytest.raises(UsageError, match="write --data cifar10=DIR cifar100=DIR"):
        planned(tmp_path, data=("a",))
    with pytest.raises(UsageError, match="write RECIPE=DIR"):
        planned(tmp_path, data=("cifar10=a", "imagenet=b"))


def test_estimates_come_from_finished_runs_first(tmp_path: Path):
    runs = planned(tmp_path, only=("cifar100", "cifar_resnet20", "none", "se"), settings=("image_size=8",))
    finish(runs[0], [50, 60])  # 60 s for two epochs
    estimator = Estimator(read_finished(runs), torch.device("cpu"))
    known, other = estimator.estimate(runs[1]), estimator.estimate(runs[2])
    assert known.source == "finished runs"
    assert known.seconds == pytest.approx(180 * 30)
    assert other.source == "at least: counted, over the rates of cpu"
    assert other.seconds is not None
    assert other.seconds > 0
    assert other.memory is not None
    assert other.memory > 1e6


@pytest.mark.compiled  # shape checks are counted as the network's own work
def test_a_step_is_counted_as_it_is_published_and_kept():
    """ResNet-50 has 4.09 billion multiply-accumulates an image at 224², and its training step is three passes."""
    recipe = dataclasses.replace(RECIPES["imagenet"](), mechanism="none", batch_size=4)
    counted = count_step(recipe, 1000)
    assert counted.operations / (3 * 2 * 4) == pytest.approx(4.09e9, rel=0.01)
    model = build_model(recipe, 1000).train()
    kept: dict[int, int] = {parameter.untyped_storage().data_ptr(): 0 for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    images = torch.randn(4, 3, 224, 224)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(images)
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert counted.memory == pytest.approx(3 * weights + images.nbytes + sum(kept.values()), rel=0.01)
    assert logits.requires_grad


def test_dry_run_lists_without_writing(crosslayer, tmp_path: Path):
    output = tmp_path / "out"
    words = ("--only", "cifar10", "cifar_resnet20", "none", "--seeds", "0-1", "--dry-run", "--output", output)
    code, out, err = crosslayer("reproduce", "table1", *words, "--set", "image_size=8", "--device", "cpu")
    assert code == 0, err
    assert "REDUCED" in out
    assert "image_size 8 (recipe: 32)" in out
    assert out.count("absent") == 2
    assert "left: " in out
    assert not output.exists()
