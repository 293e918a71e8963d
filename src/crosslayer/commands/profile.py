import dataclasses
import json
from typing import Annotated

import tyro
from rich.table import Table

from crosslayer.console import console
from crosslayer.errors import UsageError
from crosslayer.models.profile import Profile, profile_model
from crosslayer.training.networks import build_model
from crosslayer.training.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Options:
    """Parameters (10⁶) and multiply-accumulates (10⁹) for one image, whole and per stage."""

    backbone: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BACKBONE")]
    """Network (`crosslayer list`)."""
    mechanism: str = "none"
    """Mechanism in every stage (`crosslayer list`)."""
    options: tuple[str, ...] = ()
    """The mechanism's own options as NAME=VALUE."""
    num_classes: int = 10
    """Outputs of the classifier."""
    image_size: int = 32
    """Side of the image, in pixels."""
    json: bool = False
    """Print JSON."""


def run(words: list[str]) -> None:
    """Crosslayer profile BACKBONE [OPTION …]."""
    options = tyro.cli(Options, args=words, prog="crosslayer profile")
    if options.num_classes < 1:
        raise UsageError(f"--num-classes is {options.num_classes}; it must be at least 1")
    recipe = Recipe(
        backbone=options.backbone,
        mechanism=options.mechanism,
        options=options.options,
        image_size=options.image_size,
    )
    profile = profile_model(build_model(recipe, options.num_classes), options.image_size)
    if options.json:
        head = {
            "backbone": options.backbone,
            "mechanism": options.mechanism,
            "num_classes": options.num_classes,
        }
        print(json.dumps(head | profile.as_dict(), indent=2))
    else:
        console.print(as_table(options, profile))


def as_table(options: Options, profile: Profile) -> Table:
    """One row per part of the network."""
    size = profile.image_size
    table = Table(
        "part",
        title=f"{options.backbone} + {options.mechanism}, {size}×{size}, {options.num_classes} classes",
    )
    table.add_column("parameters (10⁶)", justify="right")
    table.add_column("MACs (10⁹)", justify="right")
    for part in profile.parts:
        table.add_row(part.name, f"{part.parameters / 1e6:.4f}", f"{part.macs / 1e9:.5f}")
    table.add_section()
    table.add_row("network", f"{profile.total.parameters / 1e6:.4f}", f"{profile.total.macs / 1e9:.5f}")
    return table
