"""How long runs will take and how much memory they need: by finished runs, or by a measured step."""

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from crosslayer.benchmark.configuration import Configuration
from crosslayer.benchmark.limits import synchronise
from crosslayer.benchmark.memory import saved_for_backward, unique_bytes
from crosslayer.benchmark.workload import TrainingStep
from crosslayer.reproduce.plan import Planned
from crosslayer.reproduce.published_data import SIZES
from crosslayer.reproduce.results import Finished
from crosslayer.training.networks import build_model
from crosslayer.training.recipe import Recipe

FEW = 32
"""Images that a measured step has at most on a CPU, where a whole batch can take minutes."""
STEPS = 2
"""Steps that are timed, after one that is not."""


class Estimate(NamedTuple):
    """What a run will take, as far as it can be told."""

    seconds: float | None
    memory: float | None
    """Bytes of weights, momentum, a batch, and what a training step keeps for its gradients."""
    source: str


class Probe(NamedTuple):
    """A measured training step."""

    seconds_per_image: float
    memory: float


def kind_of(recipe: Recipe) -> tuple[object, ...]:
    """What a step's time and memory depend on."""
    size = (recipe.batch_size, recipe.image_size, recipe.precision, recipe.compile)
    return (recipe.backbone, recipe.mechanism, recipe.options, *size)


class Estimator:
    """Estimates runs; every kind of network is measured once.

    Args:
        finished: runs of the output folder that are done.
        device: where the others will run.
    """

    def __init__(self, finished: Sequence[Finished], device: torch.device) -> None:
        self.finished, self.device = finished, device
        self.probes: dict[tuple[object, ...], Probe] = {}

    def estimate(self, run: Planned) -> Estimate:
        """One run's; by finished runs of the same kind, where there are any."""
        recipe, data = run.recipe, SIZES.get(run.cell.recipe)
        if data is None or not isinstance(recipe, Recipe):
            return Estimate(None, None, "this recipe's steps cannot be measured alone")
        probe = self.probe(recipe, data.classes)
        if alike := [each for each in self.finished if is_like(each, run.cell.recipe, recipe)]:
            seconds = statistics.median(each.summary["wall_seconds"] / each.summary["steps"] for each in alike)
            per_epoch = max(round(each.summary["steps"] / each.summary["epochs"]) for each in alike)
            return Estimate(seconds * steps(recipe, per_epoch), probe.memory, "finished runs")
        total = steps(recipe, data.train // recipe.batch_size)
        images = total * recipe.batch_size + recipe.epochs * data.val / 3  # a pass forward is a third of a step
        return Estimate(images * probe.seconds_per_image, probe.memory, f"a step measured on {self.device}")

    def probe(self, recipe: Recipe, num_classes: int) -> Probe:
        """The measured step of a recipe's kind of network."""
        kind = kind_of(recipe)
        if kind not in self.probes:
            self.probes[kind] = measure(recipe, num_classes, self.device)
        return self.probes[kind]


def is_like(finished: Finished, name: str, recipe: Recipe) -> bool:
    """Whether a finished run tells how long one of this recipe takes."""
    theirs = finished.run.recipe
    return finished.run.cell.recipe == name and isinstance(theirs, Recipe) and kind_of(theirs) == kind_of(recipe)


def steps(recipe: Recipe, per_epoch: int) -> int:
    """Optimizer steps of a run."""
    return min(recipe.epochs * per_epoch, recipe.max_steps or recipe.epochs * per_epoch)


def measure(recipe: Recipe, num_classes: int, device: torch.device) -> Probe:
    """A few training steps, of few images on a CPU; what they keep is scaled to the recipe's batch."""
    batch = recipe.batch_size if device.type != "cpu" else min(FEW, recipe.batch_size)
    step = TrainingStep(build_model(recipe, num_classes), configuration(recipe, batch, num_classes, device))
    step()
    synchronise(device)
    begun = time.perf_counter()
    for _ in range(STEPS):
        step()
    synchronise(device)
    seconds = (time.perf_counter() - begun) / STEPS / batch
    saved = (saved_for_backward(step) or 0) * recipe.batch_size / batch
    return Probe(seconds, unique_bytes(step.resident()) + saved)


def configuration(recipe: Recipe, batch: int, num_classes: int, device: torch.device) -> Configuration:
    """The recipe's step as the benchmark describes one."""
    return Configuration(
        backbone=recipe.backbone,
        mechanism=recipe.mechanism,
        mode="train",
        precision="fp32" if recipe.precision == "fp32" else "bf16",
        compiled="eager",
        impl="auto",
        batch_size=batch,
        image_size=recipe.image_size,
        num_classes=num_classes,
        channels_last=recipe.channels_last,
        device=str(device),
    )
