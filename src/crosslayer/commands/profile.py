import dataclasses
import json
from typing import Annotated

import tyro
from rich.table import Table

from crosslayer.console import console
from crosslayer.errors import UsageError
from crosslayer.models.factory import image_size_of
from crosslayer.models.profile import Profile, profile_model
from crosslayer.options import parse_options
from crosslayer.reports import paper_sizes
from crosslayer.training.learner import build_model
from crosslayer.training.recipe import OF_NETWORKS, Recipe, check_bounds


@dataclasses.dataclass(frozen=True)
class Options:
    """Parameters (10⁶) and multiply-accumulates (10⁹) for one image, whole and per stage, or beside the paper's."""

    backbone: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[BACKBONE]")] = None
    """Network (`crosslayer list`)."""
    mechanism: str = "none"
    """Mechanism in every stage (`crosslayer list`)."""
    options: tuple[str, ...] = ()
    """The mechanism's own options as NAME=VALUE."""
    num_classes: int | None = None
    """Outputs of the classifier; absent, 1000, or 10 for networks of CIFAR."""
    image_size: int | None = None
    """Side of the image, in pixels; absent, that of the backbone's published results: 224, or 32 for CIFAR."""
    table1: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Every row of the paper's Table 1 (CIFAR), ours beside the paper's."""
    table2: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Every row of the paper's Table 2 (ImageNet), likewise."""
    table3: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Every row of the paper's Table 3 (detectors), likewise: parameters only."""
    json: bool = False
    """Print JSON."""


def run(words: list[str]) -> None:
    """Crosslayer profile [BACKBONE] [OPTION …]."""
    options = parse_options(Options, words, "crosslayer profile")
    if options.table1 or options.table2 or options.table3:
        return print_table(options)
    if options.backbone is None:
        raise UsageError("name a BACKBONE (`crosslayer list` has them), or ask for --table1, --table2 or --table3")
    return _print_profile(options, options.backbone)


def print_table(options: Options) -> None:
    """A table of the paper, ours beside the paper's."""
    if options.table1 + options.table2 + options.table3 > 1:
        raise UsageError("ask for one of --table1, --table2 and --table3, not for several")
    if (options.backbone, options.mechanism, options.options, options.image_size) != (None, "none", (), None):
        raise UsageError("a table's rows are given: leave out BACKBONE, --mechanism, --options and --image-size")
    if options.table3:
        return _print_detectors(as_json=options.json)
    number = 1 if options.table1 else 2
    rows = paper_sizes.measure_table(number)
    if options.json:
        print(json.dumps(paper_sizes.as_dict(number, rows), indent=2))
    else:
        console.print(paper_sizes.as_table(number, rows))
    return None


def _print_detectors(*, as_json: bool) -> None:
    """The paper's table of detectors, ours beside the paper's."""
    from crosslayer.reports import detector_sizes  # brings torchvision's detectors, which other profiles need not

    rows = detector_sizes.measure_detectors()
    if as_json:
        print(json.dumps(detector_sizes.as_dict(rows), indent=2))
    else:
        console.print(detector_sizes.as_table(rows))


def _print_profile(options: Options, backbone: str) -> None:
    """One network, by its parts."""
    for name in ("num_classes", "image_size"):
        check_bounds(name, getattr(options, name), most=OF_NETWORKS[name])
    recipe = Recipe(backbone=backbone, mechanism=options.mechanism, options=options.options)
    try:
        published = image_size_of(backbone)
    except ValueError as error:
        raise UsageError(str(error)) from error
    num_classes = options.num_classes or (1000 if published == 224 else 10)
    profile = profile_model(build_model(recipe, num_classes), options.image_size or published)
    if options.json:
        head = {
            "backbone": backbone,
            "mechanism": options.mechanism,
            "num_classes": num_classes,
        }
        print(json.dumps(head | profile.as_dict(), indent=2))
    else:
        size = profile.image_size
        title = f"{backbone} + {options.mechanism}, {size}×{size}, {num_classes} classes"
        console.print(as_table(title, profile))


def as_table(title: str, profile: Profile) -> Table:
    """One row per part of the network."""
    table = Table("part", title=title)
    table.add_column("parameters (10⁶)", justify="right")
    table.add_column("MACs (10⁹)", justify="right")
    for part in profile.parts:
        table.add_row(part.name, f"{part.parameters / 1e6:.4f}", f"{part.macs / 1e9:.5f}")
    table.add_section()
    table.add_row("network", f"{profile.total.parameters / 1e6:.4f}", f"{profile.total.macs / 1e9:.5f}")
    return table
