"""How long runs will take and how much memory they need: by finished runs, or counted."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from crosslayer.benchmark.configuration import Precision
from crosslayer.benchmark.cost import BACKWARD, OPTIMIZER, Traffic
from crosslayer.benchmark.limits import Limits, measure_limits
from crosslayer.benchmark.memory import count_saved
from crosslayer.reproduce.plan import Planned
from crosslayer.reproduce.published_data import SIZES
from crosslayer.reproduce.results import Finished
from crosslayer.training.learner import build_model
from crosslayer.training.recipe import Recipe


class Estimate(NamedTuple):
    """What a run will take, as far as it can be told."""

    seconds: float | None
    memory: float | None
    """Bytes of weights, gradients, momentum, a batch, and what a training step keeps for its gradients."""
    source: str


class Count(NamedTuple):
    """What one training step computes, moves and keeps, counted on a network without memory."""

    operations: int
    bytes: int
    memory: int


def _kind_of(recipe: Recipe) -> tuple[object, ...]:
    """What a step's time and memory depend on."""
    size = (recipe.batch_size, recipe.image_size, recipe.precision, recipe.compile)
    return (recipe.backbone, recipe.mechanism, recipe.options, *size)


class Estimator:
    """Estimates runs; every kind of network is counted once, and the device is measured once, for a second.

    Args:
        finished: runs of the output folder that are done.
        device: where the others will run.
    """

    def __init__(self, finished: Sequence[Finished], device: torch.device) -> None:
        self.finished, self.device = finished, device
        self.counts: dict[tuple[object, ...], Count] = {}
        self.limits: dict[Precision, Limits] = {}

    def estimate(self, run: Planned) -> Estimate:
        """One run's; by finished runs of the same kind, where there are any."""
        recipe, data = run.recipe, SIZES.get(run.cell.recipe)
        if data is None or not isinstance(recipe, Recipe):
            return Estimate(None, None, "this recipe's steps cannot be counted alone")
        counted = self.count(recipe, data.classes)
        if alike := [each for each in self.finished if _is_like(each, run.cell.recipe, recipe)]:
            seconds = statistics.median(each.summary["wall_seconds"] / each.summary["steps"] for each in alike)
            per_epoch = max(round(each.summary["steps"] / each.summary["epochs"]) for each in alike)
            return Estimate(seconds * steps(recipe, per_epoch), counted.memory, "finished runs")
        total = steps(recipe, data.train // recipe.batch_size)
        total += recipe.epochs * data.val / recipe.batch_size / (1 + BACKWARD)  # a pass forward, of test images
        limits = self.limits_in("fp32" if recipe.precision == "fp32" else "bf16")
        step = counted.operations / limits.operations_per_second + counted.bytes / limits.bytes_per_second
        return Estimate(total * step, counted.memory, f"at least: counted, over the rates of {self.device}")

    def count(self, recipe: Recipe, num_classes: int) -> Count:
        """The counted step of a recipe's kind of network."""
        kind = _kind_of(recipe)
        if kind not in self.counts:
            self.counts[kind] = count_step(recipe, num_classes)
        return self.counts[kind]

    def limits_in(self, precision: Precision) -> Limits:
        """What the device can do at most."""
        if precision not in self.limits:
            self.limits[precision] = measure_limits(str(self.device), precision)
        return self.limits[precision]


def _is_like(finished: Finished, name: str, recipe: Recipe) -> bool:
    """Whether a finished run tells how long one of this recipe takes."""
    theirs = finished.run.recipe
    return finished.run.cell.recipe == name and isinstance(theirs, Recipe) and _kind_of(theirs) == _kind_of(recipe)


def steps(recipe: Recipe, per_epoch: int) -> int:
    """Optimizer steps of a run."""
    return min(recipe.epochs * per_epoch, recipe.max_steps or recipe.epochs * per_epoch)


def count_step(recipe: Recipe, num_classes: int) -> Count:
    """One pass forward of a batch without memory; the pass backward computes and moves twice as much."""
    model = build_model(recipe, num_classes).to("meta").train()
    size = (recipe.batch_size, 3, recipe.image_size, recipe.image_size)
    images = torch.empty(size, device="meta")
    weights = list(model.parameters())
    with count_saved(model) as saved, Traffic() as traffic, FlopCounterMode(display=False) as counter:
        model(images)
    update = sum(weight.numel() * weight.element_size() for weight in weights)
    small = 1 if recipe.precision == "fp32" else 2  # bf16 takes half the bytes
    return Count(
        (1 + BACKWARD) * counter.get_total_flops(),
        (1 + BACKWARD) * traffic.bytes // small + OPTIMIZER * update,
        3 * update + images.numel() * 4 + sum(saved.values()) // small,
    )
