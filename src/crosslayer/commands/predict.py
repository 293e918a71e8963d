import dataclasses
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from crosslayer.console import console, only_json, print_json
from crosslayer.data.image_files import image_paths, load_image_files
from crosslayer.errors import UsageError
from crosslayer.options import parse_options
from crosslayer.training.recipe import flag
from crosslayer.training.trained import Trained, Which, likeliest, load_trained


@dataclasses.dataclass(frozen=True)
class Options:
    """The five likeliest classes of image files; or what a detector finds in them, drawn."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE …]")]
    """Image files of any kind and size, or folders of them; classifiers look at the centre square."""
    output: str | None = None
    """Of detectors: folder for the pictures [default: predictions]."""
    threshold: float | None = None
    """Of detectors: least score that is drawn [default: 0.5]."""
    checkpoint: Which = "last"
    """Which checkpoint."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: bool = False
    """Print one JSON object, and nothing else, on standard output."""


def run(words: list[str]) -> None:
    """Crosslayer predict RUN IMAGE … [OPTION …]."""
    options = parse_options(Options, words, "crosslayer predict")
    if not options.images:
        raise UsageError("name an IMAGE to look at, or a folder of them")
    paths = image_paths(options.images)
    with only_json(options.json):
        trained = load_trained(options.run, options.checkpoint, options.device)
        detector = trained.recipe.task == "detection"
        images = _of_detector(options, trained, paths) if detector else _of_classifier(options, trained, paths)
    if options.json:
        print_json({"run": options.run, "step": trained.step, "images": images})


def _of_detector(options: Options, trained: Trained, paths: list[str]) -> list[dict[str, Any]]:
    """What a detector finds in each file, drawn and printed."""
    from crosslayer.detection import commands  # brings torchvision's detectors, which classifiers need not

    threshold = 0.5 if options.threshold is None else options.threshold
    return commands.predict_files(trained, paths, threshold, Path(options.output or "predictions"))


@torch.no_grad()
def _of_classifier(options: Options, trained: Trained, paths: list[str]) -> list[dict[str, Any]]:
    """The likeliest classes of each file, printed as they are known."""
    for name in ("output", "threshold"):
        if getattr(options, name) is not None:
            raise UsageError(
                f"{flag(name)} is for detectors' runs; {options.run} is a classifier's, which draws nothing"
            )
    results: list[dict[str, Any]] = []
    names = trained.dataset_info.classes
    for path in paths:
        pixels = load_image_files([path], trained.view())
        (best,) = likeliest(trained.model(trained.prepare(pixels)), names, 5)
        console.print("\n".join((path, *(f"  {100 * probability:6.2f} %  {name}" for name, probability in best))))
        results.append({"file": path, "classes": [{"class": name, "probability": p} for name, p in best]})
    return results
