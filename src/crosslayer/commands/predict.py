import dataclasses
from typing import Annotated

import torch
import tyro

from crosslayer.console import console
from crosslayer.data.image_files import load_image_files
from crosslayer.training.trained import Which, load_trained


@dataclasses.dataclass(frozen=True)
class Options:
    """The five likeliest classes of image files, with their probabilities."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE …]")]
    """Image files of any kind and size; the centre square is looked at."""
    checkpoint: Which = "last"
    """Which checkpoint."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@torch.no_grad()
def run(words: list[str]) -> None:
    """Crosslayer predict RUN IMAGE … [OPTION …]."""
    options = tyro.cli(Options, args=words, prog="crosslayer predict")
    trained = load_trained(options.run, options.checkpoint, options.device)
    for path in options.images:
        pixels = load_image_files([path], trained.recipe.view())
        probabilities = trained.model(trained.prepare(pixels)).float().softmax(1)[0]
        console.print(path)
        for probability, index in zip(*probabilities.topk(min(5, len(probabilities))), strict=True):
            console.print(f"  {100 * float(probability):6.2f} %  {trained.facts.classes[int(index)]}")
