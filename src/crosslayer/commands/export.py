import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import tyro
from torch import Tensor, nn

from crosslayer import __version__
from crosslayer.benchmark.networks import DEFAULT_SIZE, build_network
from crosslayer.console import console
from crosslayer.data.decode import decode_batch, evenly_spaced
from crosslayer.errors import FailedError, UsageError
from crosslayer.export.formats import FormatName, find_format
from crosslayer.export.write import write_program
from crosslayer.models.factory import backbones
from crosslayer.options import parse_options
from crosslayer.training.recipe import OF_NETWORKS, check_bounds, flag
from crosslayer.training.run_directory import RECIPE
from crosslayer.training.trained import Trained, Which, load_trained

COMPARED, CALIBRATED = 4, 32
TOLERANCE, TOLERANCE_INT8 = 1e-4, 0.25


@dataclasses.dataclass(frozen=True)
class Options:
    """Write a classifier as a program for another runtime, compared with the network before it is written."""

    network: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|BACKBONE")]
    """Run directory, or a network by name (`crosslayer list`, or timm:NAME) with fresh weights."""
    output: str
    """File to write; its name ends with .onnx, .pt2 (pt2 and aoti), .xml (openvino) or .pt (torchscript)."""
    format: FormatName = "onnx"
    """What to write."""
    mechanism: str = "none"
    """Of a network by name: the mechanism in every stage."""
    num_classes: int | None = None
    """Of a network by name: outputs [default: 1000, or 10 for networks of CIFAR]."""
    image_size: int | None = None
    """Side of the square images, in pixels [default: the run's in evaluation, or the network's published one]."""
    checkpoint: Which = "last"
    """Of a run: which checkpoint."""
    int8: bool = False
    """Compute in int8, calibrated on images (onnx)."""
    dynamic: bool = False
    """Take any number of images at once; else one."""
    tolerance: float | None = None
    """Largest difference from the network's outputs, over the largest of these [default: 1e-4, with --int8 0.25]."""


class Subject(NamedTuple):
    """What is written, and what it is looked at with."""

    model: nn.Module
    images: Tensor
    kind_of_images: str
    metadata: dict[str, Any]


def run(words: list[str]) -> None:
    """Crosslayer export RUN|BACKBONE --output FILE [OPTION …]."""
    options = parse_options(Options, words, "crosslayer export")
    for name in ("num_classes", "image_size"):
        check_bounds(name, getattr(options, name), most=OF_NETWORKS[name])
    if options.tolerance is not None and not options.tolerance >= 0:
        raise UsageError(f"--tolerance is {options.tolerance:g}; it must be at least 0")
    kind, path = find_format(options.format, int8=options.int8), Path(options.output)
    if path.suffix != kind.suffix or path.is_dir():
        raise UsageError(
            f"--output is {options.output}; the name of a file of {options.format} ends with {kind.suffix}"
        )
    subject = of_run(options) if (Path(options.network) / RECIPE).exists() else _of_name(options)
    tolerance = options.tolerance if options.tolerance is not None else TOLERANCE_INT8 if options.int8 else TOLERANCE
    metadata = {key: one if isinstance(one, str) else json.dumps(one) for key, one in subject.metadata.items()}
    how = {"tolerance": tolerance, "dynamic": options.dynamic, "int8": options.int8}
    written = write_program(subject.model, subject.images, metadata, kind, path, **how)
    console.print(
        f"compared on {len(subject.images)} {subject.kind_of_images}: outputs differ by at most "
        f"{written.difference:.2g} of the largest (tolerance {tolerance:g})"
    )
    for file in written.files:
        console.print(f"written: {file} ({file.stat().st_size / 2**20:.1f} MiB)")


def of_run(options: Options) -> Subject:
    """A run's network and, where its data are at hand, images of its validation split."""
    for name, given in (("mechanism", options.mechanism != "none"), ("num_classes", options.num_classes)):
        if given:
            raise UsageError(f"{flag(name)} is for networks by name; {options.network} is a run and has its own")
    trained = load_trained(options.network, options.checkpoint, "cpu", fused=False)
    if trained.recipe.task == "detection":
        raise UsageError(
            f"{options.network} is a detector's run: how many boxes it proposes and keeps depends on the image, which "
            "the exported programs cannot follow; classifiers can be exported"
        )
    info, view = trained.dataset_info, trained.view()
    if options.image_size:
        view = dataclasses.replace(view, size=options.image_size)
    images, kind = _compared_images(trained, view, CALIBRATED if options.int8 else COMPARED)
    metadata = {
        "backbone": trained.recipe.backbone,
        "mechanism": trained.recipe.mechanism,
        "crosslayer": __version__,
        "classes": info.classes,
        "mean": info.mean,
        "std": info.std,
        "image_size": view.size,
        "crop": view.crop,
        "interpolation": view.interpolation,
    }
    return Subject(trained.model, images, kind, metadata)


def _compared_images(trained: Trained, view: Any, count: int) -> tuple[Tensor, str]:
    """Validation images of a run, or random ones and why."""
    data = trained.recipe.data
    try:
        if not Path(data).exists():  # nothing is downloaded for a comparison
            raise UsageError(f"{data} is not on this disk")
        split = trained.source().val
    except (UsageError, FailedError) as error:
        return _random_images(view.size, count, 3), f"random images (the run's own are not at hand: {error})"
    chosen = evenly_spaced(len(split), count).tolist()
    return trained.prepare(decode_batch(split, chosen, view)), f"validation images of {data}"


def _of_name(options: Options) -> Subject:
    """A network with fresh weights, and random images."""
    if Path(options.network).is_dir():
        load_trained(options.network)  # says what is wrong with it
    own = backbones().get(options.network)
    size = options.image_size or (own.image_size if own else DEFAULT_SIZE)
    num_classes = options.num_classes or (10 if own and own.image_size == 32 else 1000)
    torch.manual_seed(0)
    model = build_network(options.network, options.mechanism, num_classes).eval()
    metadata = {
        "backbone": options.network,
        "mechanism": options.mechanism,
        "crosslayer": __version__,
        "image_size": size,
        "weights": "fresh",
    }
    count = CALIBRATED if options.int8 else COMPARED
    return Subject(model, _random_images(size, count, 3), "random images (the weights are fresh)", metadata)


def _random_images(size: int, count: int, channels: int) -> Tensor:
    """Normal noise, always the same."""
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))
