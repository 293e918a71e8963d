import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from torch import Tensor, nn

from crosslayer.console import console
from crosslayer.data.image_files import load_image_files
from crosslayer.errors import UsageError
from crosslayer.files import write_json
from crosslayer.options import parse_options
from crosslayer.reports.attention import attention_matrices, draw_attention
from crosslayer.training.recipe import check_bounds
from crosslayer.training.run_directory import RECIPE
from crosslayer.training.trained import Trained, Which, load_trained


@dataclasses.dataclass(frozen=True)
class Options:
    """Draw, for every stage, how much block l attends to block m: the mean over images and heads (Figure 2)."""

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN] [IMAGE …]")]
    """One run directory or two, then image files [default: validation images of the first run's data]."""
    output: str = "attention"
    """Folder for attention.png and attention.json."""
    count: int = 256
    """Validation images to average over, where no files are given."""
    data: str | None = None
    """Data set to take them from [default: each run's own]."""
    checkpoint: Which = "last"
    """Which checkpoint."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def run(words: list[str]) -> None:
    """Crosslayer attention RUN [RUN] [IMAGE …] [OPTION …]."""
    options = parse_options(Options, words, "crosslayer attention")
    runs, files = _runs_and_files(options.paths)
    check_bounds("count", options.count)
    drawn = []
    for path in runs:
        trained = load_trained(path, options.checkpoint, options.device)
        try:
            matrices = attention_matrices(*_looked_at(trained, files, options))
        except UsageError as error:
            raise UsageError(f"run {path}, {trained.recipe.mechanism}: {error}") from error
        drawn.append((trained.recipe.mechanism, matrices))
    folder = Path(options.output)
    content = [
        {"run": path, "mechanism": mechanism, "stages": [matrix.tolist() for matrix in matrices]}
        for path, (mechanism, matrices) in zip(runs, drawn, strict=True)
    ]
    write_json(folder / "attention.json", content)
    draw_attention(drawn, folder / "attention.png")
    console.print(f"numbers: {folder / 'attention.json'}\npicture: {folder / 'attention.png'}")


def _runs_and_files(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Run directories first, then image files."""
    runs = [path for path in paths[:2] if (Path(path) / RECIPE).exists()]
    if not runs and paths:
        load_trained(paths[0])  # says what is wrong with it
    files = list(paths[len(runs) :])
    folders = [path for path in files if Path(path).is_dir()]
    if folders or not runs:
        where = f"; {folders[0]} is a folder without a run" if folders else ""
        raise UsageError(f"attention takes one run directory or two, then image files{where}")
    return runs, files


def _looked_at(trained: Trained, files: list[str], options: Options) -> tuple[nn.Module, Iterator[Tensor]]:
    """The network that looks back, and the images to average over."""
    if trained.recipe.task == "detection":
        from crosslayer.detection import commands  # brings torchvision's detectors, which classifiers need not

        images = commands.attended_images(trained, files, options.data, options.count)
        return trained.model.get_submodule("backbone"), images
    return trained.model, batches(trained, files, options)


def batches(trained: Trained, files: list[str], options: Options) -> Iterator[Tensor]:
    """The images to average over, as the network takes them."""
    if files:
        yield trained.prepare(load_image_files(files, trained.view()))
    else:
        yield from trained.val_batches(options.count, options.data)
