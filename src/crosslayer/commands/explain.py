import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from crosslayer.console import console
from crosslayer.data.image_files import load_image_files
from crosslayer.errors import UsageError
from crosslayer.mechanisms.registry import unknown_name
from crosslayer.options import parse_options
from crosslayer.reports.explain import draw_explanation, explain
from crosslayer.training.trained import Which, load_trained


@dataclasses.dataclass(frozen=True)
class Options:
    """Draw where a network looks: Grad-CAM, and per block the map that each earlier layer contributes."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory of a classifier with dla_b, dla_l, mrla_b or mrla_l."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE …]")]
    """Image files; the network looks at the centre square."""
    output: str = "explanations"
    """Folder for the pictures, NAME-CLASS.png each."""
    classes: tuple[str, ...] = ()
    """Classes to explain, a picture each [default: the likeliest]."""
    checkpoint: Which = "last"
    """Which checkpoint."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def run(words: list[str]) -> None:
    """Crosslayer explain RUN IMAGE … [OPTION …]."""
    options = parse_options(Options, words, "crosslayer explain")
    trained = load_trained(options.run, options.checkpoint, options.device)
    if trained.recipe.task == "detection":
        raise UsageError(f"{options.run} is a detector's run; explain is for classifiers, predict draws what it finds")
    names = trained.dataset_info.classes
    for name in options.classes:
        if name not in names:
            raise UsageError(f"--classes: {unknown_name('class', name, names)}")
    if not options.images:
        raise UsageError("name an IMAGE to explain")
    if len({Path(path).stem for path in options.images}) < len(options.images):
        raise UsageError("two images have the same name but for their folder or ending; explain them one by one")
    pictures = load_image_files(options.images, trained.view())
    for path, picture in zip(options.images, pictures, strict=True):
        for index in [names.index(name) for name in options.classes] or [None]:
            seen = explain(trained.model, trained.prepare(picture[None]), index)
            name = names[seen.explained]
            safe = "".join(letter if letter.isalnum() or letter in "-_ " else "_" for letter in name)
            file = Path(options.output) / f"{Path(path).stem}-{safe}.png"
            draw_explanation(picture, seen, f"{Path(path).name}: {name}", file)
            console.print(f"picture: {file}")
