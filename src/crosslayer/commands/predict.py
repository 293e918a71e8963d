import dataclasses
from pathlib import Path
from typing import Annotated

import torch
import tyro

from crosslayer.console import console
from crosslayer.data.image_files import load_image_files
from crosslayer.detection.recipe import DetectionRecipe
from crosslayer.training.trained import Which, load_trained


@dataclasses.dataclass(frozen=True)
class Options:
    """The five likeliest classes of image files; or what a detector finds in them, drawn."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE …]")]
    """Image files of any kind and size; classifiers look at the centre square."""
    output: str = "predictions"
    """Of detectors: folder for the pictures."""
    threshold: float = 0.5
    """Of detectors: least score that is drawn."""
    checkpoint: Which = "last"
    """Which checkpoint."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@torch.no_grad()
def run(words: list[str]) -> None:
    """Crosslayer predict RUN IMAGE … [OPTION …]."""
    options = tyro.cli(Options, args=words, prog="crosslayer predict")
    trained = load_trained(options.run, options.checkpoint, options.device)
    if isinstance(trained.recipe, DetectionRecipe):
        from crosslayer.detection import commands  # brings torchvision's detectors, which classifiers need not

        return commands.predict_files(trained, options.images, options.threshold, Path(options.output))
    for path in options.images:
        pixels = load_image_files([path], trained.view())
        probabilities = trained.model(trained.prepare(pixels)).float().softmax(1)[0]
        console.print(path)
        for probability, index in zip(*probabilities.topk(min(5, len(probabilities))), strict=True):
            console.print(f"  {100 * float(probability):6.2f} %  {trained.facts.classes[int(index)]}")
    return None
