"""What is trained, and how: one flat, frozen dataclass; every field is a command-line option."""

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from typing import Any, Literal

from crosslayer.data.images import LoaderName
from crosslayer.data.sources import DIGITS, default_download_folder
from crosslayer.errors import UsageError
from crosslayer.mechanisms import configure, lookup

Precision = Literal["fp32", "bf16", "fp16"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is trained, and how. Two runs of one recipe and seed on one kind of device are the same to the bit."""

    mechanism: str = "dla_l"
    """Mechanism in every stage (`crosslayer list`)."""
    backbone: str = "cifar_resnet20"
    """Network (`crosslayer list`)."""
    options: tuple[str, ...] = ()
    """The mechanism's own options as NAME=VALUE, e.g. cell=paper reduction=8."""
    drop_path: float = 0.2
    """Probability of dropping the layer-attention branch for an image; unused by mechanisms that have none."""
    data: str = DIGITS
    """`digits`, a folder (torchvision CIFAR, parquet shards or class folders), or hf://OWNER/NAME."""
    image_size: int = 32
    """Side of the square images, in pixels."""
    pad: int = 4
    """Random crop: pixels of black padding on every side."""
    flip: bool = True
    """Mirror images by chance."""
    epochs: int = 180
    """Passes over the training set."""
    max_steps: int | None = None
    """Stop after this many optimizer steps in all, if sooner."""
    batch_size: int = 128
    """Images per optimizer step, over all processes."""
    accumulate: int = 1
    """Parts that each process computes its share of a batch in, to save memory."""
    lr: float = 0.1
    """Learning rate of SGD at the start (not scaled with the batch size)."""
    milestones: tuple[int, ...] = (100, 150)
    """Epochs after which the learning rate is divided by ten."""
    warmup_epochs: int = 0
    """Epochs of linear warm-up from a hundredth of the learning rate."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay, on every parameter."""
    label_smoothing: float = 0.0
    """Probability mass spread over all classes."""
    seed: int = 0
    """Seeds the weights, the order of the images, their augmentation and drop path."""
    precision: Precision = "fp32"
    """Arithmetic: full, or automatic mixed precision."""
    compile: bool = False
    """Compile the network with torch.compile."""
    channels_last: bool = True
    """Memory format of maps and kernels; faster almost everywhere."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise UsageError(f"{flag(name)} is {value}; it must be at least {least}")
        for name in ("drop_path", "momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{flag(name)} is {getattr(self, name)}; it must be in [0, 1)")
        if self.lr <= 0:
            raise UsageError(f"--lr is {self.lr}; it must be above 0")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise UsageError(f"--milestones are {self.milestones}; they must be rising epochs")

    def mechanism_options(self) -> dict[str, Any]:
        """The mechanism's options with their types, drop path among them where it has one.

        Raises:
            UsageError: an unknown mechanism or option, or a value of the wrong kind.
        """
        try:
            fields = {field.name: field.type for field in dataclasses.fields(lookup(self.mechanism).config)}
            options: dict[str, Any] = {"drop_path": self.drop_path} if "drop_path" in fields else {}
            for option in self.options:
                name, equals, text = option.partition("=")
                if not equals:
                    raise UsageError(f"--options {option}: write it as NAME=VALUE")
                options[name] = parse_value(name, text, fields[name]) if name in fields else text
            configure(self.mechanism, options)
        except ValueError as error:
            raise UsageError(str(error)) from error
        return options


_LEAST = {
    "image_size": 1,
    "pad": 0,
    "epochs": 1,
    "max_steps": 1,
    "batch_size": 1,
    "accumulate": 1,
    "warmup_epochs": 0,
    "weight_decay": 0,
    "seed": 0,
}


@dataclasses.dataclass(frozen=True)
class Launch:
    """Where a run goes and what it runs on: nothing here changes what is learned, up to the device's rounding."""

    output: str | None = None
    """Run directory to make [default: runs/RECIPE-BACKBONE-MECHANISM-seedN]."""
    overwrite: bool = False
    """Replace the run that the output directory holds."""
    resume: str | None = None
    """Run directory to go on with; of its recipe only --epochs and --max-steps may be changed."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    workers: int = 4
    """Threads that decode images."""
    loader: LoaderName = "auto"
    """Keep decoded images on the device, stream them, or decide by size (2 GiB)."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"--workers is {self.workers}; it must be at least 1")


EXTENDABLE = {"epochs", "max_steps"}
"""Fields of a recipe that may differ when a run is resumed: they say how far it goes."""


def flag(name: str) -> str:
    """A field's command-line option."""
    return "--" + name.replace("_", "-")


def parse_value(name: str, text: str, kind: Any) -> Any:
    """An option's text as the type its dataclass declares.

    Raises:
        UsageError: it is no such value.
    """
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if text in choices:
            return text
        close = difflib.get_close_matches(text, choices, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"--options {name}={text}: it is one of {', '.join(choices)}{hint}")
    kind = next((arm for arm in typing.get_args(kind) if arm is not type(None)), kind) if is_optional(kind) else kind
    try:
        if typing.get_origin(kind) is tuple:
            return tuple(int(part) for part in text.split(","))
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        what = "true or false" if kind is bool else "whole numbers" if kind is not float else "a number"
        raise UsageError(f"--options {name}={text}: the value must be {what}") from None


def is_optional(kind: Any) -> bool:
    """Whether a type is `X | None`."""
    return type(None) in typing.get_args(kind)


def digits() -> Recipe:
    """Real handwritten digits that scikit-learn ships, 16×16: a whole training in half a minute on a CPU."""
    return Recipe(
        data=DIGITS,
        image_size=16,
        pad=2,
        flip=False,
        epochs=12,
        batch_size=64,
        warmup_epochs=1,
        milestones=(8, 11),
        drop_path=0.0,
    )


def cifar10() -> Recipe:
    """CIFAR-10 with the settings of the paper's Table 1."""
    return Recipe(data=default_download_folder("cifar10"))


def cifar100() -> Recipe:
    """CIFAR-100 with the settings of the paper's Table 1."""
    return Recipe(data=default_download_folder("cifar100"))


RECIPES = {"digits": digits, "cifar10": cifar10, "cifar100": cifar100}
DATASETS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
"""Torchvision's name for the data set that a recipe is about."""


def differing(ours: Recipe, theirs: Recipe, names: Sequence[str] | None = None) -> list[str]:
    """Names of the fields in which two recipes differ."""
    names = names or [field.name for field in dataclasses.fields(Recipe)]
    return [name for name in names if getattr(ours, name) != getattr(theirs, name)]
