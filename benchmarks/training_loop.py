"""What the training loop costs: milliseconds per step of the whole loop, and of the step alone, in turn.

    python benchmarks/training_loop.py
    python benchmarks/training_loop.py --set backbone=cifar_resnet56 precision=bf16 compile=graphs --device cuda --json

The loop is `crosslayer train`'s own, from the shuffled order to the figures on the screen, without validation and
checkpoints. The step alone is forward, cross-entropy, backward and optimizer, on a batch that stays on the device.
The loop less the step is what data, augmentation, seeds and Python cost. A network that does nothing is measured too:
the device has next to nothing to do then, and what is left is Python's share. The first step is told by itself: with
--set compile=on it is the compiler's, and of an epoch of n steps it takes first / (first + (n - 1) loop).

Images are noise on the device, unless --data names some. Every round gives each of the four its turn; the table has
medians over the rounds.
"""

import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Annotated, NamedTuple, final

import torch
import torch.nn.functional as F
import tyro
from rich.table import Table
from torch import Tensor, nn

from crosslayer.benchmark.limits import synchronise
from crosslayer.benchmark.rows import relative_spread
from crosslayer.cli import outcome
from crosslayer.console import console, errors
from crosslayer.data.augment import normalise
from crosslayer.data.images import Batch, ResidentImages
from crosslayer.data.sources import DIGITS
from crosslayer.data.stream import TrainingStream
from crosslayer.data.training_images import PadCrops
from crosslayer.errors import UsageError
from crosslayer.mechanisms.registry import unknown_name
from crosslayer.reproduce.filters import set_fields
from crosslayer.training.display import Display
from crosslayer.training.interruption import Interruption
from crosslayer.training.launch import Launch
from crosslayer.training.learner import BACKBONE, Learner
from crosslayer.training.recipe import Recipe
from crosslayer.training.recipes import RECIPES
from crosslayer.training.train_state import TrainState, own_shares, prepare
from crosslayer.training.trainer import train_epoch

WARM_UP = 5
"""Steps of each kind, after the first, that are not counted."""
NOISE_STEPS = 100
"""Steps in an epoch of noise."""
RATE = 1e-4
"""Learning rate: noise is learned by no network, and at the recipe's rate a loss may become infinite."""
Work = Callable[[int], None]
"""Does so many steps."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the training loop costs per step, beside the step alone."""

    recipe: str = "cifar100"
    """A classifier's recipe (crosslayer train --help)."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE …")] = ()
    """Options of crosslayer train to change, e.g. backbone=cifar_resnet56 compile=graphs."""
    data: str | None = None
    """Images to train on [default: noise]."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    workers: int = 4
    """Threads or processes that decode images, where --data has too many to keep."""
    steps: int = 100
    """Steps of a turn."""
    rounds: int = 5
    """Turns of each."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print a JSON object for every network instead of a table."""


class Row(NamedTuple):
    """One network's times, in milliseconds per step."""

    network: str
    loop_ms: float
    step_ms: float
    beside_ms: float
    """Median over the rounds of what the loop took more than the step."""
    first_ms: float
    """The very first step in the loop: with `compile`, the compiler's time."""
    spread: float
    """Interquartile range of the loop's rounds over their median."""


@final
class Nothing(nn.Module):
    """Class scores of an image's mean colour: as little as can be trained."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        return self.fc(images.mean((2, 3)))


def run(words: list[str]) -> None:
    """Measures and prints."""
    options = tyro.cli(Options, args=words, prog="training_loop.py", description=__doc__)
    recipe = chosen_recipe(options)
    with tempfile.TemporaryDirectory() as folder:
        launch = Launch(output=f"{folder}/run", device=options.device, workers=options.workers)
        console.rich.quiet = options.json  # what the loop itself says
        state = prepare(options.recipe, recipe, launch)
        if options.data is None:
            state = state._replace(stream=noise(state))
        rows = measure(state, options)
        state.stream.images.close()
    console.rich.quiet = False
    if options.json:
        return print("\n".join(json.dumps(row._asdict()) for row in rows))
    return console.print(table(rows))


def chosen_recipe(options: Options) -> Recipe:
    """The recipe to measure, or a UsageError."""
    if options.recipe not in RECIPES:
        raise UsageError(unknown_name("recipe", options.recipe, RECIPES))
    if min(options.steps, options.rounds) < 1:
        raise UsageError(f"--steps {options.steps} --rounds {options.rounds}: each must be at least 1")
    recipe = set_fields(RECIPES[options.recipe](), options.settings)
    if not isinstance(recipe, Recipe):
        raise UsageError(f"recipe {options.recipe} trains a detector; classifiers only")
    if options.data is None and recipe.crop != "pad":
        raise UsageError(f"recipe {options.recipe} cuts its crops out of image files: give --data")
    return dataclasses.replace(recipe, data=options.data or DIGITS, lr=RATE)


def noise(state: TrainState) -> TrainingStream[Batch]:
    """Images that nobody need have: augmented as the recipe says, of as many classes as the network has."""
    recipe, accelerator = state.recipe, state.accelerator
    assert isinstance(recipe, Recipe)
    count, side = NOISE_STEPS * recipe.batch_size, recipe.image_size
    pixels = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    labels = torch.randint(len(state.task.dataset_info.classes), (count,)).numpy()
    images = PadCrops(ResidentImages(pixels, labels, accelerator.device), recipe.pad, recipe.flip)
    shares = own_shares(accelerator, recipe.accumulate)
    return TrainingStream(images, batch_size=recipe.batch_size, shares=shares, seed=recipe.seed)


def measure(state: TrainState, options: Options) -> list[Row]:
    """The recipe's network and one that does nothing, each in the loop and alone, in turn."""
    (first, *_), *_ = state.stream.epoch(0)
    networks = {
        f"{state.recipe.backbone} + {state.recipe.mechanism}": state,
        "nothing": state._replace(learner=nothing(state), progress=dataclasses.replace(state.progress)),
    }
    works = [work for each in networks.values() for work in (in_loop(each), alone(each, first))]
    firsts = [timed(work, 1, state) for work in works]
    for work in works:
        timed(work, WARM_UP, state)
    rounds: list[list[float]] = []
    for number in range(options.rounds):
        errors.print(f"round {number + 1} of {options.rounds}")
        rounds.append([timed(work, options.steps, state) for work in works])
    seconds = list(zip(*rounds, strict=True))
    return [row(name, seconds[2 * i], seconds[2 * i + 1], firsts[2 * i]) for i, name in enumerate(networks)]


def nothing(state: TrainState) -> Learner:
    """A network without work, and SGD."""
    model = Nothing(len(state.task.dataset_info.classes)).to(state.accelerator.device)
    groups = [{"params": list(model.parameters()), "name": BACKBONE}]
    return Learner(model, torch.optim.SGD(groups, RATE, momentum=0.9, fused=True), None)


def in_loop(state: TrainState) -> Work:
    """The training loop, epoch after epoch."""
    progress, recipe = state.progress, state.recipe
    display = Display(1, state.stream.steps_per_epoch, 1, recipe.batch_size, shown=False)

    def work(steps: int) -> None:
        last = progress.step + steps
        while progress.step < last:
            train_epoch(state, last, display, Interruption())
            if progress.step_in_epoch == state.stream.steps_per_epoch:
                progress.epoch, progress.step_in_epoch, progress.sums = progress.epoch + 1, 0, {}

    return work


def alone(state: TrainState, batch: Batch) -> Work:
    """The step alone, on one part of a batch, as often as the loop has parts."""
    accelerator, learner, facts = state.accelerator, state.learner, state.task.dataset_info
    x = normalise(batch.pixels, facts.mean, facts.std)

    def work(steps: int) -> None:
        for _ in range(steps):
            for _ in range(state.stream.shares.count):
                learner.begin_pass()
                with accelerator.autocast():
                    logits = learner.model(x)
                F.cross_entropy(logits.float(), batch.labels).backward()
                learner.keep_gradients()
            learner.optimizer.step()
            learner.optimizer.zero_grad()

    return work


def timed(work: Work, steps: int, state: TrainState) -> float:
    """Seconds per step."""
    synchronise(state.accelerator.device)
    begun = time.perf_counter()
    work(steps)
    synchronise(state.accelerator.device)
    return (time.perf_counter() - begun) / steps


def row(name: str, loop: tuple[float, ...], step: tuple[float, ...], first: float) -> Row:
    """What the rounds say of a network."""
    median = statistics.median(loop)
    beside = statistics.median(a - b for a, b in zip(loop, step, strict=True))
    return Row(
        name, 1e3 * median, 1e3 * statistics.median(step), 1e3 * beside, 1e3 * first, relative_spread(loop) or 0.0
    )


def table(rows: list[Row]) -> Table:
    """One line for each network."""
    shown = Table("network", title="Milliseconds per step")
    for heading in ("the whole loop", "the step alone", "beside it", "the first step", "spread of the loop"):
        shown.add_column(heading, justify="right")
    for each in rows:
        times = (each.loop_ms, each.step_ms, each.beside_ms, each.first_ms)
        shown.add_row(each.network, *(f"{value:.3f}" for value in times), f"{each.spread:.1%}")
    return shown


if __name__ == "__main__":
    sys.exit(outcome(run, sys.argv[1:]))
