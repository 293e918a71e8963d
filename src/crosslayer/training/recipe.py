"""What is trained and how: one flat, frozen dataclass whose fields are command-line options, and its limits."""

import dataclasses
import math
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from crosslayer.data.decode import Interpolation, View
from crosslayer.data.sources import DIGITS
from crosslayer.errors import UsageError
from crosslayer.training.mechanism_options import mechanism_options

if TYPE_CHECKING:
    from crosslayer.training.recipe import Recipe, TrainingRecipe


NO_DATA = ""
"""A recipe whose data only the user has."""
Precision = Literal["fp32", "bf16", "fp16"]
Compilation = Literal["off", "on", "graphs"]
TaskName = Literal["classification", "detection"]


@dataclasses.dataclass(frozen=True)
class TrainingRecipe:
    """What every recipe says: the network, how its weights change, and for how long."""

    task: ClassVar[TaskName]
    """What is learned."""
    mechanism: str = "dla_l"
    """Mechanism in every stage (`crosslayer list`)."""
    backbone: str = "cifar_resnet20"
    """Network (`crosslayer list`), or with --graft any of timm's."""
    options: tuple[str, ...] = ()
    """The mechanism's own options as NAME=VALUE, e.g. cell=paper reduction=8."""
    drop_path: float = 0.2
    """Probability of dropping the layer-attention branch for an image; unused by mechanisms that have none."""
    graft: bool = False
    """Take the backbone from timm and graft the mechanism onto it."""
    weights: str | None = None
    """Begin with the backbone's weights in this file: a state dict, .pt, .pth or .safetensors."""
    data: str = NO_DATA
    """What is trained on."""
    freeze_epochs: int = 0
    """First epochs in which only the graft and the classifier learn."""
    freeze_norm: bool = False
    """Let the backbone's batch normalisation use and keep its pretrained statistics throughout."""
    epochs: int = 180
    """Passes over the training set."""
    max_steps: int | None = None
    """Stop after this many optimizer steps in all, if sooner."""
    patience: int | None = None
    """Stop after this many epochs without a better score on the validation split than before them, if sooner."""
    batch_size: int = 128
    """Images per optimizer step, over all processes."""
    accumulate: int = 1
    """Parts that each process computes its share of a batch in, to save memory."""
    optimizer: Literal["sgd", "adamw", "rmsprop"] = "sgd"
    """How gradients change weights; rmsprop is TensorFlow's, with α = 0.9 and ε = 0.001."""
    lr: float = 0.1
    """Learning rate at the start (not scaled with the batch size); of a graft's backbone, where --graft-lr is given."""
    graft_lr: float | None = None
    """Learning rate of the graft and of the classifier [default: lr]."""
    milestones: tuple[int, ...] = (100, 150)
    """Epochs after which the learning rate is divided by ten."""
    momentum: float = 0.9
    """Momentum of SGD and of RMSprop."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: float = 1e-4
    """Weight decay, on every parameter or, with --no-decay-vectors, on matrices and kernels only."""
    decay_vectors: bool = True
    """Weight decay on parameters of one dimension too: biases, and scales of normalisations."""
    ema: float = 0.0
    """Decay of the moving average of the weights, which is then what is evaluated and kept; 0 for none."""
    seed: int = 0
    """Seeds the weights, the order of the images, their augmentation and drop path."""
    precision: Precision = "fp32"
    """Arithmetic: full, or automatic mixed precision."""
    compile: Compilation = "off"
    """Compile the network with torch.compile; `graphs`: and launch its kernels together, as CUDA graphs (GPUs only)."""
    channels_last: bool = True
    """Memory format of maps and kernels; faster almost everywhere."""
    fused: bool = True
    """Run what mechanisms do to whole maps in fused ops (crosslayer.fuse), where maps are channels-last."""

    @property
    def total_epochs(self) -> int:
        """Passes over the training set in all."""
        return self.epochs

    def mechanism_options(self) -> dict[str, Any]:
        """The mechanism's options with their types, or a UsageError."""
        return mechanism_options(self.mechanism, self.options, self.drop_path)


@dataclasses.dataclass(frozen=True)
class Recipe(TrainingRecipe):
    """What a classifier is trained on, and how.

    Two runs of one recipe and seed on one kind of device are the same to the bit.
    """

    task: ClassVar[TaskName] = "classification"
    pretrained: bool = False
    """Begin with the weights timm knows for the backbone (a download); unused where --weights are given."""
    data: str = DIGITS
    """`digits`, a folder (torchvision CIFAR, parquet shards or class folders), torchvision:NAME, or hf://OWNER/NAME."""
    val_split: float = 0.0
    """Share of each class's training images to validate on instead of the validation split; 0 for none."""
    image_size: int = 32
    """Side of the square images in training, in pixels."""
    crop: Literal["pad", "resized"] = "pad"
    """Random crop: of the image padded with black, or of any part of it, resized."""
    pad: int = 4
    """Padded crop: pixels of black on every side."""
    crop_scale: float = 0.08
    """Resized crop: least area, as a share of the image's."""
    flip: bool = True
    """Mirror images by chance."""
    rand_augment: str | None = None
    """timm's RandAugment, e.g. rand-m9-mstd0.5-inc1; needs resized crops."""
    random_erasing: float = 0.0
    """Probability that a rectangle of an image becomes noise (arXiv 1708.04896)."""
    interpolation: Interpolation = "bicubic"
    """How images are scaled."""
    eval_size: int | None = None
    """Side of the square images in evaluation, in pixels [default: image size]."""
    eval_crop: float = 1.0
    """Share of the shorter side that evaluation looks at, in the centre (0.875: scaled to 256 for 224)."""
    mixup: float = 0.0
    """α of mixup; 0 for none."""
    cutmix: float = 0.0
    """α of CutMix; 0 for none. With both, each part of a batch gets one or the other."""
    dropout: float = 0.0
    """Share of the features dropped before the classifier, of a network of timm."""
    stochastic_depth: float = 0.0
    """Probability of dropping the last block's branch, rising from 0 at the first, of a network of timm."""
    schedule: Literal["milestones", "step", "cosine", "linear"] = "milestones"
    """How the learning rate falls: in steps, many small ones, or along a half cosine or a straight line to zero."""
    decay_epochs: float = 2.4
    """Epochs of one step of --schedule step."""
    decay_rate: float = 0.97
    """What the learning rate is multiplied with at each step of --schedule step."""
    warmup_epochs: int = 0
    """Epochs of linear warm-up from a hundredth of the learning rate."""
    label_smoothing: float = 0.0
    """Probability mass spread over all classes."""

    def __post_init__(self) -> None:
        check(self)

    def view(self) -> View:
        """What evaluation looks at of an image."""
        return View(self.eval_size or self.image_size, self.eval_crop, self.interpolation)


_RECIPES: dict[TaskName, tuple[str, str]] = {
    "classification": (__name__, "Recipe"),
    "detection": ("crosslayer.detection.recipe", "DetectionRecipe"),
}
"""Where each task's recipes are."""


def recipe_type(task: str) -> type[TrainingRecipe]:
    """The class of a task's recipes.

    Raises:
        KeyError: there is no such task.
    """
    module, name = _RECIPES[task]  # pyright: ignore[reportArgumentType]  # a name from a file
    return getattr(import_module(module), name)


def recipe_types() -> list[type[TrainingRecipe]]:
    """Of every task."""
    return [recipe_type(task) for task in _RECIPES]


def differing(ours: TrainingRecipe, theirs: TrainingRecipe) -> list[str]:
    """Names of the fields in which two recipes of one kind differ."""
    names = (field.name for field in dataclasses.fields(ours))
    return [name for name in names if getattr(ours, name) != getattr(theirs, name)]


SHARED_LEAST = {
    "epochs": 1,
    "max_steps": 1,
    "patience": 1,
    "batch_size": 1,
    "accumulate": 1,
    "freeze_epochs": 0,
    "weight_decay": 0,
    "seed": 0,
}
"""Of fields that all recipes have."""
LEAST = {"image_size": 1, "eval_size": 1, "pad": 0, "mixup": 0, "cutmix": 0, "warmup_epochs": 0}
SHARES = (
    *("drop_path", "momentum", "ema", "label_smoothing", "val_split"),
    *("random_erasing", "dropout", "stochastic_depth"),
)
"""Fields in [0, 1)."""
LARGEST = 2**31 - 1
"""Of whole numbers."""
OF_NETWORKS = {"num_classes": 100_000, "image_size": 2048, "image_sizes": 2048, "batch_sizes": 2**16}
"""The most of a network by name: what would take the memory before anything could be said of it."""
SIDES = ("image_size", "eval_size", "max_size", "jitter", "pad", "multi_scale", "pyramid_channels")
LONGEST = 2**14
"""Of these, in pixels or channels."""
PARTS = ("crop_scale", "eval_crop", "decay_rate")
"""Fields in (0, 1]."""


def flag(name: str) -> str:
    """A field's command-line option."""
    return "--" + name.replace("_", "-")


def check_bounds(name: str, value: float | None, least: int = 1, most: int = LARGEST) -> None:
    """Raises UsageError for a number, where there is one, outside its range."""
    if value is not None and not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most:,}"
        raise UsageError(f"{flag(name)} is {str(value)[:40]}; it must be {bound}")


def check(recipe: "Recipe") -> None:
    """Raises UsageError for a value outside its range, or values that contradict each other."""
    check_shared(recipe)
    _check_ranges(recipe)
    _check_schedule(recipe)
    _check_augmentation(recipe)
    _check_graft(recipe)


def check_shared(recipe: "TrainingRecipe") -> None:
    """Every number, on its own, that all recipes have; milestones rise."""
    _check_finite(recipe)
    for name, least in SHARED_LEAST.items():
        check_bounds(name, getattr(recipe, name), least)
    for name in SHARES:
        if not 0 <= getattr(recipe, name, 0) < 1:
            raise UsageError(f"{flag(name)} is {getattr(recipe, name)}; it must be in [0, 1)")
    if recipe.nesterov and not (recipe.optimizer == "sgd" and recipe.momentum):
        raise UsageError("--nesterov is a form of SGD's momentum: it needs --optimizer sgd and --momentum above 0")
    for name in ("lr", "graft_lr"):
        if (value := getattr(recipe, name)) is not None and not value > 0:
            raise UsageError(f"{flag(name)} is {value}; it must be above 0")
    if list(recipe.milestones) != sorted(set(recipe.milestones)):
        raise UsageError(f"--milestones are {recipe.milestones}; they must be rising epochs")


def _check_finite(recipe: "TrainingRecipe") -> None:
    """Numbers are finite, and whole ones not beyond what counts and sides of images can be."""
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UsageError(f"{flag(field.name)} is {number}; it must be a finite number")
            most = LONGEST if field.name in SIDES else LARGEST
            if isinstance(number, int) and number > most:
                raise UsageError(f"{flag(field.name)} is {str(number)[:40]}; it must be at most {most:,}")


def _check_ranges(recipe: "Recipe") -> None:
    """Every number of a classifier's recipe, on its own."""
    for name, least in LEAST.items():
        check_bounds(name, getattr(recipe, name), least)
    for name in PARTS:
        if not 0 < getattr(recipe, name) <= 1:
            raise UsageError(f"{flag(name)} is {getattr(recipe, name)}; it must be in (0, 1]")


def _check_schedule(recipe: "Recipe") -> None:
    """A step takes time; a cosine or a line needs room after the warm-up."""
    if not recipe.decay_epochs > 0:
        raise UsageError(f"--decay-epochs is {recipe.decay_epochs}; it must be above 0")
    if recipe.schedule in ("cosine", "linear") and recipe.warmup_epochs >= recipe.epochs:
        raise UsageError(
            f"--warmup-epochs {recipe.warmup_epochs} leaves nothing of --epochs {recipe.epochs} for --schedule "
            f"{recipe.schedule}"
        )


def _check_augmentation(recipe: "Recipe") -> None:
    """RandAugment works on single images of any size, so it needs resized crops."""
    if recipe.rand_augment is None:
        return
    if recipe.crop != "resized":
        raise UsageError("--rand-augment needs --crop resized")
    from crosslayer.data.resized_crops import rand_augment  # brings timm's augmentations, which most recipes need not

    try:
        rand_augment(recipe.rand_augment, recipe.image_size)
    except ValueError as error:
        raise UsageError(f"--rand-augment: {error}") from error


def _check_graft(recipe: "Recipe") -> None:
    """What is said of a graft needs one."""
    if recipe.graft:
        return
    for name in (
        *("pretrained", "weights", "graft_lr", "freeze_epochs", "freeze_norm"),
        *("dropout", "stochastic_depth"),
    ):
        if value := getattr(recipe, name):
            raise UsageError(f"{flag(name)}{'' if value is True else f' {value}'} needs --graft (a network of timm)")
