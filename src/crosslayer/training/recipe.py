"""What is trained, and how: one flat, frozen dataclass; every field is a command-line option."""

import dataclasses
from typing import Any, ClassVar, Literal

from crosslayer.data.decode import Interpolation, View
from crosslayer.data.sources import DIGITS
from crosslayer.training.mechanism_options import mechanism_options
from crosslayer.training.validation import check

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
    batch_size: int = 128
    """Images per optimizer step, over all processes."""
    accumulate: int = 1
    """Parts that each process computes its share of a batch in, to save memory."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """How gradients change weights."""
    lr: float = 0.1
    """Learning rate at the start (not scaled with the batch size); of a graft's backbone, where --graft-lr is given."""
    graft_lr: float | None = None
    """Learning rate of the graft and of the classifier [default: lr]."""
    milestones: tuple[int, ...] = (100, 150)
    """Epochs after which the learning rate is divided by ten."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay, on every parameter."""
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
    """`digits`, a folder (torchvision CIFAR, parquet shards or class folders), or hf://OWNER/NAME."""
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
    schedule: Literal["milestones", "cosine"] = "milestones"
    """How the learning rate falls: in steps, or along a half cosine to zero."""
    warmup_epochs: int = 0
    """Epochs of linear warm-up from a hundredth of the learning rate."""
    label_smoothing: float = 0.0
    """Probability mass spread over all classes."""

    def __post_init__(self) -> None:
        check(self)

    def view(self) -> View:
        """What evaluation looks at of an image."""
        return View(self.eval_size or self.image_size, self.eval_crop, self.interpolation)


def differing(ours: TrainingRecipe, theirs: TrainingRecipe) -> list[str]:
    """Names of the fields in which two recipes of one kind differ."""
    names = (field.name for field in dataclasses.fields(ours))
    return [name for name in names if getattr(ours, name) != getattr(theirs, name)]
