"""benchmarks/training_loop.py as a user runs it: what it prints, and what it refuses."""

import json
import runpy
from pathlib import Path

import pytest

from crosslayer.cli import outcome

RUN = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "training_loop.py"))["run"]


def measured(*words: object) -> int:
    return outcome(RUN, [str(word) for word in ("--device", "cpu", "--workers", 0, *words)])


def test_both_networks_in_the_loop_and_alone(capsys: pytest.CaptureFixture[str]):
    settings = ("--set", "batch_size=4", "accumulate=2")
    assert measured("--recipe", "digits", *settings, "--steps", 3, "--rounds", 2, "--json") == 0
    network, nothing = map(json.loads, capsys.readouterr().out.splitlines())
    assert (network["network"], nothing["network"]) == ("cifar_resnet20 + dla_l", "nothing")
    assert min(network["loop_ms"], network["step_ms"], nothing["loop_ms"], nothing["step_ms"]) > 0
    assert network.keys() == {"network", "loop_ms", "step_ms", "beside_ms", "first_ms", "spread"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--recipe", "cifar"), "unknown recipe 'cifar'; did you mean cifar10"),
        (("--recipe", "coco_faster"), "recipe coco_faster trains a detector; classifiers only"),
        (("--recipe", "imagenet"), "recipe imagenet cuts its crops out of image files: give --data"),
        (("--steps", 0), "--steps 0 --rounds 5: each must be at least 1"),
        (("--set", "compile=graphs"), "--compile graphs needs a CUDA device"),
    ],
)
def test_refusals_are_sentences(capsys: pytest.CaptureFixture[str], words: tuple[object, ...], sentence: str):
    assert measured(*words) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
