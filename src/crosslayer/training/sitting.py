"""Everything that one sitting of a run works with; all is checked before anything is written."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from crosslayer.console import console
from crosslayer.data.images import Images, load_images
from crosslayer.data.sources import open_source
from crosslayer.data.split import Source
from crosslayer.data.stream import MODEL, Shares, TrainingStream, seeded
from crosslayer.errors import UsageError
from crosslayer.models import ResNet, create_model
from crosslayer.training import checkpoint
from crosslayer.training.checkpoint import Progress
from crosslayer.training.device import start_accelerator
from crosslayer.training.environment import describe_environment
from crosslayer.training.recipe import DATASETS, Launch, Recipe
from crosslayer.training.run_directory import DataFacts, RunDirectory

STATISTICS_SAMPLE = 4096
"""Images, evenly spaced over the training set, that its mean and standard deviation are taken from."""


class Sitting(NamedTuple):
    """What the loop works with."""

    recipe: Recipe
    facts: DataFacts
    run: RunDirectory
    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    stream: TrainingStream
    val: Images
    progress: Progress
    begun: float
    """When the clock would have been started, had all earlier sittings been part of this one."""


def prepare(name: str, recipe: Recipe, launch: Launch) -> Sitting:
    """Checks everything that can be checked, then makes the run directory (or opens the resumed one)."""
    run = RunDirectory(launch.resume or launch.output or default_output(name, recipe))
    if not launch.resume:
        run.check_free(launch.overwrite)
    build_model(recipe, num_classes=2)  # a wrong name is told before any data is read
    accelerator = start_accelerator(launch.device, recipe.precision)
    source, train, val = load_data(name, recipe, launch, accelerator)
    stream = TrainingStream(
        train,
        batch_size=recipe.batch_size,
        shares=own_shares(accelerator, recipe.accumulate),
        seed=recipe.seed,
        pad=recipe.pad,
        flip=recipe.flip,
    )
    facts = run.read()[2] if launch.resume else data_facts(source, train)
    if facts.classes != source.classes:
        raise UsageError(f"--data {recipe.data} has other classes than the run was trained on")
    state = latest_state(run) if launch.resume else None
    model, optimizer = build_learner(recipe, facts, accelerator, run, state)
    if accelerator.is_main_process:
        environment = describe_environment(accelerator.device, accelerator.num_processes)
        run.begin(name, recipe, facts, environment, resumed=bool(launch.resume))
        announce(recipe, run, stream, source, accelerator)
    progress = Progress(**state["progress"]) if state else Progress()
    begun = time.monotonic() - progress.wall_seconds
    return Sitting(recipe, facts, run, accelerator, model, optimizer, stream, val, progress, begun)


def load_data(name: str, recipe: Recipe, launch: Launch, accelerator: Accelerator) -> tuple[Source, Images, Images]:
    """The data set and its two splits; the main process decodes first, the others find its cache."""
    with accelerator.main_process_first():
        source = open_source(recipe.data, DATASETS.get(name))
        train, val = (
            load_images(split, recipe.image_size, accelerator.device, launch.workers, launch.loader, text)
            for split, text in ((source.train, "decoding train"), (source.val, "decoding val"))
        )
    return source, train, val


def build_learner(
    recipe: Recipe, facts: DataFacts, accelerator: Accelerator, run: RunDirectory, state: dict[str, Any] | None
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Network and optimizer on the device, new or as a checkpoint has them."""
    torch.backends.cudnn.deterministic = True  # or a resumed run would not continue to the bit
    torch.manual_seed(seeded(recipe.seed, MODEL))
    model = build_model(recipe, len(facts.classes))
    if state:
        checkpoint.restore(model, state, run.path)
    model = placed(model, recipe, accelerator.device)
    if recipe.compile:
        model.compile()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    if state:
        optimizer.load_state_dict(state["optimizer"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
    return accelerator.prepare(model, optimizer)


def placed(model: ResNet, recipe: Recipe, device: torch.device) -> ResNet:
    """The network on a device, in the recipe's memory format."""
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    return model.to(device, memory_format=memory_format)  # pyright: ignore[reportCallIssue]  # torch's stub lacks it


def build_model(recipe: Recipe, num_classes: int) -> nn.Module:
    """The recipe's network, or a UsageError that says what is wrong with its name or options."""
    options = recipe.mechanism_options()
    try:
        return create_model(recipe.backbone, recipe.mechanism, num_classes=num_classes, **options)
    except ValueError as error:
        raise UsageError(str(error)) from error


def data_facts(source: Source, images: Images) -> DataFacts:
    """Classes, and the mean and standard deviation of each channel over a sample of the training set."""
    sample = torch.linspace(0, len(images) - 1, min(STATISTICS_SAMPLE, len(images))).round().long()
    total, squares, pixels = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0
    for batch in images.batches(sample.split(512)):
        x = batch.pixels.cpu().double() / 255
        total += x.sum((0, 2, 3))
        squares += x.square().sum((0, 2, 3))
        pixels += x[:, 0].numel()
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp_min(1e-4).sqrt()
    return DataFacts(source.classes, tuple(mean.tolist()), tuple(std.tolist()))


def own_shares(accelerator: Accelerator, accumulate: int) -> Shares:
    """This process's parts of every batch."""
    return Shares(accelerator.process_index * accumulate, accumulate, accelerator.num_processes * accumulate)


def default_output(name: str, recipe: Recipe) -> Path:
    """Where a run goes that was given no place."""
    return Path("runs") / f"{name}-{recipe.backbone}-{recipe.mechanism}-seed{recipe.seed}"


def announce(
    recipe: Recipe, run: RunDirectory, stream: TrainingStream, source: Source, accelerator: Accelerator
) -> None:
    """Says what is about to happen."""
    console.print(
        f"{recipe.backbone} + {recipe.mechanism} on {recipe.data}: {len(source.train):,} train and "
        f"{len(source.val):,} test images of {len(source.classes)} classes, {stream.steps_per_epoch} steps per epoch, "
        f"{accelerator.device}, {recipe.precision} → {run.path}"
    )


def latest_state(run: RunDirectory) -> dict[str, Any] | None:
    """The last checkpoint of a run, if it has any."""
    steps = checkpoint.saved_steps(run.checkpoints)
    return checkpoint.load_checkpoint(checkpoint.path_of(run.checkpoints, steps[-1])) if steps else None
