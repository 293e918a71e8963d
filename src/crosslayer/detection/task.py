"""Detection: the losses of proposals, boxes and masks over augmented images, average precision over a split."""

from collections.abc import Mapping
from typing import Any, final

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FasterRCNN

from crosslayer.detection.detector import create_detector
from crosslayer.detection.evaluation import evaluate_detector
from crosslayer.detection.networks import NEW
from crosslayer.detection.recipe import DetectionRecipe, check_start, rate_factor
from crosslayer.detection.scenes import Augmentation, Scene, TrainingScenes
from crosslayer.detection.source import train_annotations, val_annotations
from crosslayer.errors import UsageError
from crosslayer.training.launch import Launch
from crosslayer.training.records import DatasetInfo
from crosslayer.training.task import Key, Row, Task

PARTS = {
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "proposals",
    "loss_classifier": "classes",
    "loss_box_reg": "boxes",
    "loss_mask": "masks",
}
"""Torchvision's name of each part of the loss, and ours."""
FIGURES = {"val/ap": "box AP", "val/ap50": "AP50", "val/ap75": "AP75", "val/mask_ap": "mask AP"}
"""Figures of the validation split that a line of text tells."""


@final
class Detection(Task[list[Scene]]):
    """A recipe's data in COCO's format.

    Args:
        recipe: what is trained, and how.
        launch: how images are loaded.
        accelerator: devices, precision and processes.
        known: what a resumed run has been told of its data.

    Raises:
        UsageError: no data was named, or the two splits or the resumed run differ in their categories; nothing to begin
            with where the recipe freezes a part; annotations or images that are wrong.
        FailedError: no image has an object.
    """

    def __init__(
        self, recipe: DetectionRecipe, launch: Launch, accelerator: Accelerator, known: DatasetInfo | None
    ) -> None:
        if known is None:
            check_start(recipe)
        self.recipe, self.accelerator, self.loaders = recipe, accelerator, launch.workers
        self.masks = recipe.detector == "mask_rcnn"
        train, self.val = (read(recipe.data, masks=self.masks) for read in (train_annotations, val_annotations))
        if train.categories != self.val.categories:
            raise UsageError(f"{train.file} and {self.val.file} have different categories")
        if known and (known.category_ids, known.classes) != (train.categories.ids, train.categories.names):
            raise UsageError(f"--data {recipe.data} has other categories than the run was trained on")
        self.dataset_info = known or DatasetInfo(train.categories.names, (), (), train.categories.ids)
        self.images = TrainingScenes(
            train,
            Augmentation(recipe.flip, recipe.jitter),
            keep_empty=recipe.keep_empty,
            device=accelerator.device,
            workers=launch.workers,
        )
        self.objects = len(train.labels)
        losses = [part for part in PARTS if self.masks or part != "loss_mask"]
        self.loss_names = ("loss", *losses)
        self.parts = accelerator.num_processes * recipe.accumulate

    @classmethod
    def load(
        cls, name: str, recipe: DetectionRecipe, launch: Launch, accelerator: Accelerator, known: DatasetInfo | None
    ) -> "Detection":
        """With its data; recipes of every name read the same."""
        return cls(recipe, launch, accelerator, known)

    @staticmethod
    def build_model(recipe: DetectionRecipe, num_classes: int, *, begin: bool = False) -> FasterRCNN:
        """The detector; a run that begins takes the backbone's weights, others come from a checkpoint.

        Raises:
            UsageError: a wrong name, option or value, or weights of another network.
            FailedError: a download that failed.
        """
        try:
            return create_detector(
                recipe.detector,
                recipe.backbone,
                recipe.mechanism,
                num_classes,
                recipe.weights if begin else None,
                graft=recipe.graft,
                frozen_stages=recipe.frozen_stages,
                freeze_norm=recipe.freeze_norm,
                pyramid_channels=recipe.pyramid_channels,
                min_size=(*recipe.multi_scale, recipe.image_size) if recipe.multi_scale else recipe.image_size,
                max_size=recipe.max_size,
                resize_in_training=recipe.jitter is None,
                **recipe.mechanism_options(),
            )
        except ValueError as error:
            raise UsageError(str(error)) from error

    @staticmethod
    def parameter_groups(model: nn.Module, recipe: DetectionRecipe) -> list[dict[str, Any]]:
        """What learns, in two groups: `backbone`, and `graft` for mechanism, pyramid and heads."""
        learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        pretrained = {
            name for name in learning if name.startswith("backbone.body.") and not any(part in name for part in NEW)
        }
        return [
            {"params": [learning[name] for name in learning if (name in pretrained) == mine], "name": group}
            for group, mine in (("backbone", True), ("graft", False))
        ]

    @staticmethod
    def compile_model(model: nn.Module, options: dict[str, Any]) -> None:
        """The backbone's body; what follows depends on what is found in an image."""
        model.get_submodule("backbone.body").compile(dynamic=True, options=options)

    def describe(self) -> str:
        """Images, objects and categories."""
        return (
            f"{len(self.images):,} train images with {self.objects:,} objects and {len(self.val):,} val images of "
            f"{len(self.dataset_info.classes)} categories"
        )

    def rate_factor(self, step: int, steps_per_epoch: int) -> float:
        """The recipe's schedule."""
        return rate_factor(self.recipe, step, steps_per_epoch)

    def loss(self, model: nn.Module, batch: list[Scene], key: Key) -> tuple[Tensor, Tensor]:
        """The sum of all parts of the loss."""
        images = [scene.image.float() / 255 for scene in batch]
        with self.accelerator.autocast():
            parts: dict[str, Tensor] = model(images, [scene.target for scene in batch])
        losses = [parts[name].float() for name in self.loss_names[1:]]
        total = torch.stack(losses).sum()
        return total, torch.stack([total, *losses]).detach() / self.parts

    def metrics(self, sums: Mapping[str, float], steps: int) -> dict[str, float]:
        """Means of the loss and of its parts."""
        return {f"train/{name}": sums[name] / steps for name in self.loss_names}

    def validate(self, model: nn.Module) -> dict[str, float | None]:
        """Average precision of boxes and, with masks, of these, in %."""
        result = evaluate_detector(model, self.val, self.recipe, self.accelerator, self.loaders)
        boxes = {f"val/{name}": value for name, value in result.boxes.figures.items()}
        if result.masks is None:
            return boxes
        return boxes | {f"val/mask_{name}": value for name, value in result.masks.figures.items()}

    def as_text(self, row: Row, split: str) -> str:
        """The loss and its parts, or average precision."""
        if split == "train":
            parts = ", ".join(f"{PARTS[name]} {row[f'train/{name}']:.3f}" for name in self.loss_names[1:])
            return f"loss {row['train/loss']:.4f} ({parts})"
        return "  ".join(
            f"{name} {row[figure]:.2f} %" for figure, name in FIGURES.items() if row.get(figure) is not None
        )

    def size(self) -> dict[str, Any]:
        """Parameters, and those that learn; the cost depends on the image and on what is found in it."""
        parameters = list(self.build_model(self.recipe, len(self.dataset_info.classes)).parameters())
        total = sum(parameter.numel() for parameter in parameters)
        learning = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        return {"parameters": total, "parameters_m": total / 1e6, "learning_parameters": learning}
