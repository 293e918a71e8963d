"""`crosslayer bench`: what it prints and keeps, not how fast anything is."""

import json
from pathlib import Path

import pytest
import torch

from crosslayer.benchmark.configuration import Configuration, Plan, groups
from crosslayer.benchmark.cost import step_cost
from crosslayer.benchmark.limits import Limits
from crosslayer.benchmark.measure import Measurement
from crosslayer.benchmark.memory import saved_for_backward
from crosslayer.benchmark.networks import build_network
from crosslayer.benchmark.process import WorkerProcess
from crosslayer.benchmark.rows import rows_of
from crosslayer.benchmark.workload import step_of
from tests.mechanisms.hosts import RESNET_MECHANISMS

TINY = ("--batch-sizes", 2, "--image-sizes", 8, "--num-classes", 5, "--seconds", 0.05, "--rounds", 1, "--threads", 1)
KEYS = (
    *("backbone", "mechanism", "mode", "precision", "compiled", "impl", "runtime"),
    *("batch_size", "image_size"),
    *("images_per_second", "ms_per_image", "spread", "relative_to_plain", "relative_to_plain_same"),
    *("peak_memory_mb", "tensor_mb", "saved_mb", "limit_ms", "limit", "of_limit", "device", "compile_seconds"),
)


def configuration(**changes) -> Configuration:
    """The plain ResNet-20, in any way."""
    return groups(Plan(batch_sizes=(2,), **({"num_classes": 5} | changes)), "cpu")[0][0]


def test_rows(crosslayer, tmp_path: Path):
    files = "--plot", tmp_path / "plot.png", "--output", tmp_path / "kept"
    words = "--mechanisms", "dla_l", "none", "--modes", "train", "--device", "cpu", "--json"
    code, out, err = crosslayer("bench", *words, *TINY, *files)
    assert code == 0, err
    plain, dla = (json.loads(line) for line in out.splitlines())
    for row in (plain, dla):
        assert row.keys() >= set(KEYS)
        assert row["error"] is None
        assert row["images_per_second"] == pytest.approx(1e3 / row["ms_per_image"])
        assert row["of_limit"] == pytest.approx(row["limit_ms"] / row["ms_per_image"])
        assert (row["backbone"], row["batch_size"], row["image_size"], row["threads"]) == ("cifar_resnet20", 2, 8, 1)
        assert row["tensor_mb"] > row["saved_mb"] > 0
        assert row["spread"] is None  # one round
    assert (plain["mechanism"], dla["mechanism"]) == ("none", "dla_l")
    assert plain["relative_to_plain"] == plain["relative_to_plain_same"] == 1
    assert dla["relative_to_plain"] == pytest.approx(dla["images_per_second"] / plain["images_per_second"])
    assert dla["saved_mb"] > plain["saved_mb"]
    assert dla["mb_per_image"] > plain["mb_per_image"]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "kept" / "rows.jsonl").read_text() == out
    environment = json.loads((tmp_path / "kept" / "environment.json").read_text())
    assert environment["limits"]["fp32"]["bytes_per_second"] > 0
    assert environment["plan"]["backbones"] == ["cifar_resnet20"]
    code, _, err = crosslayer("bench", *words, *TINY, "--output", tmp_path / "kept")
    assert code == 2
    assert "exists already" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--backbones", "cifar_resnet21"), "unknown backbone 'cifar_resnet21'; did you mean"),
        (("--backbones", "timm:resnet5O"), "unknown network of timm"),
        (("--backbones", "torchvision:resnet5"), "unknown network of torchvision"),
        (("--backbones", "torchvision:resnet18"), "is measured plain"),
        (("--mechanisms", "dla_x"), "unknown mechanism 'dla_x'"),
        (("--batch-sizes", "0"), "--batch-sizes is 0; it must be at least 1"),
        (("--rounds", "0"), "--rounds is 0; it must be at least 1"),
        (("--seconds", "0"), "--seconds is 0.0; it must be above 0"),
        (("--threads", "0"), "--threads is 0; it must be at least 1"),
        (("--modes",), "--modes is empty"),
        (("--plot", "speed.jpg"), "ends with .png"),
        (("--runtime", "openvino", "--modes", "train"), "--runtimes openvino is measured with --modes infer"),
        (("--device", "tpu"), "it is auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_faults_are_one_sentence(crosslayer, words: tuple[str, ...], sentence: str):
    code, out, err = crosslayer("bench", *words)
    assert code == 2
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert not out


@pytest.mark.exhaustive
def test_other_runtimes(crosslayer):
    runtimes = "onnxruntime", "openvino"
    words = "--mechanisms", "dla_l", "--runtime", *runtimes, "--device", "cpu", "--json"
    code, out, err = crosslayer("bench", *words, *TINY)
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["runtime"], row["mechanism"], row["mode"]) for row in rows] == [
        (runtime, mechanism, "infer") for runtime in runtimes for mechanism in ("none", "dla_l")
    ]
    assert all(row["error"] is None and row["images_per_second"] > 0 and row["threads"] == 1 for row in rows)
    assert all(row["saved_mb"] is row["tensor_mb"] is None for row in rows)
    assert all(row["relative_to_plain"] == 1 for row in rows[::2])
    assert rows[1]["relative_to_plain"] == pytest.approx(rows[1]["images_per_second"] / rows[0]["images_per_second"])


def test_a_runtime_that_is_not_installed_is_told(crosslayer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("crosslayer.export.formats.find_spec", lambda _: None)
    code, _, err = crosslayer("bench", "--runtime", "openvino")
    assert code == 2
    assert err == "crosslayer: --runtimes openvino needs openvino: pip install 'crosslayer[export]'\n"


def test_fused_is_refused_where_it_cannot_run(crosslayer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("crosslayer.fused.cpu.compiler.obstacle", lambda: "no C++ compiler is installed")
    code, _, err = crosslayer("bench", "--impls", "fused", "--device", "cpu")
    assert code == 2
    assert "--impls fused: no C++ compiler is installed; use plain" in err


def test_groups_are_led_by_the_plain_network():
    plan = Plan(("cifar_resnet20", "resnet50"), ("dla_l", "none", "dla_l"), compiled=("eager", "compiled"))
    every = groups(plan, "cpu")
    assert len(every) == 4
    assert [(one.mechanism, one.compiled) for one in every[0]] == [
        *(("none", "eager"), ("none", "compiled")),
        *(("dla_l", "eager"), ("dla_l", "compiled")),
    ]
    assert [group[0].image_size for group in every] == [32, 32, 224, 224]
    compared = groups(Plan(("resnet50",), ("none", "dla_l"), baseline="torchvision:resnet50"), "cpu")[0]
    assert [(one.backbone, one.mechanism) for one in compared] == [
        *(("torchvision:resnet50", "none"), ("resnet50", "none"), ("resnet50", "dla_l"))
    ]


def test_ratios_are_to_the_best_plain_network_and_to_the_one_alike():
    plan = Plan(compiled=("eager", "compiled"), precisions=("fp32",))
    facts = {"peak": 1, "tensors": 1, "saved": None, "operations": 64, "bytes": 64, "compile_seconds": 1, "threads": 1}
    times = ([4.0, 4.0, 8.0], [2.0, 2.0, 4.0], [8.0, 8.0, 16.0], [4.0, 4.0, 8.0])
    group = groups(plan, "cpu")[0]
    measured = [Measurement(one, facts, seconds) for one, seconds in zip(group, times, strict=True)]
    rows = rows_of(0, measured, {"fp32": Limits(1.0, 2.0)})
    assert [row["relative_to_plain"] for row in rows] == [0.5, 1, 0.25, 0.5]
    assert [row["relative_to_plain_same"] for row in rows] == [1, 1, 0.5, 0.5]
    assert {row["limit"] for row in rows} == {"bytes"}
    assert rows[0]["limit_ms"] == 1000
    assert rows[0]["of_limit"] == 16
    assert rows[0]["spread"] == 0.5


def test_a_failure_is_a_row_of_its_own():
    group = groups(Plan(), "cpu")[0]
    facts = {"peak": 1, "tensors": 1, "saved": 1, "operations": 1, "bytes": 1, "compile_seconds": None, "threads": 1}
    measured = [Measurement(group[0], facts, [1.0]), Measurement(group[1], {}, error="memory ran out")]
    good, bad = rows_of(0, measured, {"fp32": Limits(1.0, 1.0)})
    assert good.keys() == bad.keys()
    assert (bad["error"], bad["images_per_second"]) == ("memory ran out", None)


def test_cost_of_a_known_network():
    plain = step_cost(build_network("cifar_resnet20", "none", 5), configuration(modes=("infer",)))
    assert plain.operations == pytest.approx(2 * 2 * 33.6e6, rel=0.02)
    trained = step_cost(build_network("cifar_resnet20", "none", 5), configuration(modes=("train",)))
    assert trained.operations == 3 * plain.operations
    assert trained.bytes > 2 * plain.bytes
    half = step_cost(build_network("cifar_resnet20", "none", 5), configuration(modes=("infer",), precisions=("bf16",)))
    assert half.bytes == plain.bytes / 2


@pytest.mark.exhaustive
def test_every_mechanism_has_a_cost_in_inference():
    for name in RESNET_MECHANISMS:
        assert step_cost(build_network("cifar_resnet20", name, 5), configuration(modes=("infer",))).operations > 0


def test_saved_memory_is_what_a_linear_layer_keeps():
    chosen = configuration(image_sizes=(4,), modes=("train",))
    step = step_of(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5)), chosen)
    logits, images = 2 * 5 * 4, 2 * 48 * 4
    assert saved_for_backward(step) == pytest.approx(images + logits + 8 * 2 + 4, abs=8)
    assert saved_for_backward(step_of(torch.nn.Flatten(), configuration(modes=("infer",)))) is None


def test_a_worker_tells_what_went_wrong_its_own_death_included():
    with WorkerProcess("cpu", threads=1) as worker:
        refused = worker.ask("prepare", chosen=configuration(num_classes=0))
        assert "num_classes is 0" in refused["error"]
        worker.process.kill()
        assert "memory ran out" in worker.ask("measure", seconds=1)["error"]
