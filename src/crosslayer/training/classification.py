"""Classification: cross-entropy over augmented images, top-1 and top-5 over the validation split."""

from collections.abc import Mapping
from typing import Any, final

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from crosslayer.data.augment import normalise
from crosslayer.data.images import Batch
from crosslayer.data.mixing import eraser, mixer, unmixed
from crosslayer.errors import UsageError
from crosslayer.models import create_model, param_groups
from crosslayer.models.profile import profile_model
from crosslayer.training.data import dataset_info, load_data
from crosslayer.training.evaluation import evaluate
from crosslayer.training.launch import Launch
from crosslayer.training.recipe import Recipe
from crosslayer.training.records import DatasetInfo
from crosslayer.training.schedule import rate_factor
from crosslayer.training.task import Key, Row, Task


@final
class Classification(Task[Batch]):
    """A recipe's data, decoded or about to be, and its classes.

    Args:
        name: of the recipe.
        recipe: what is trained, and how.
        launch: how images are loaded.
        accelerator: devices, precision and processes.
        known: what a resumed run has been told of its data.

    Raises:
        UsageError: no data was named, or it has other classes than the resumed run's.
    """

    loss_names = ("loss", "correct")

    def __init__(
        self, name: str, recipe: Recipe, launch: Launch, accelerator: Accelerator, known: DatasetInfo | None
    ) -> None:
        data = load_data(name, recipe, launch, accelerator)
        self.recipe, self.accelerator = recipe, accelerator
        self.source, self.images, self.val = data.source, data.train, data.val
        self.dataset_info = known or dataset_info(recipe, data.source, data.plain)
        if self.dataset_info.classes != data.source.classes:
            raise UsageError(f"--data {recipe.data} has other classes than the run was trained on")
        self.paired = recipe.mixup > 0 or recipe.cutmix > 0
        self.mix = mixer(recipe.mixup, recipe.cutmix, len(self.dataset_info.classes)) if self.paired else unmixed
        self.erase = eraser(recipe.random_erasing) if recipe.random_erasing else None
        self.parts = accelerator.num_processes * recipe.accumulate

    @classmethod
    def load(
        cls, name: str, recipe: Recipe, launch: Launch, accelerator: Accelerator, known: DatasetInfo | None
    ) -> "Classification":
        """With its data."""
        return cls(name, recipe, launch, accelerator, known)

    @staticmethod
    def build_model(recipe: Recipe, num_classes: int, *, begin: bool = False) -> nn.Module:
        """The project's own network, or one of timm's with the mechanism grafted on."""
        options = recipe.mechanism_options()
        if recipe.graft:
            from crosslayer.training.grafting import grafted  # brings timm's networks, which most recipes need not

            return grafted(recipe, num_classes, begin=begin)
        try:
            return create_model(recipe.backbone, recipe.mechanism, num_classes=num_classes, **options)
        except ValueError as error:
            raise UsageError(str(error)) from error

    @staticmethod
    def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
        """A graft has two groups, all else one."""
        if recipe.graft:
            return param_groups(model, recipe.lr, recipe.graft_lr, recipe.weight_decay)
        return [{"params": list(model.parameters()), "name": "backbone"}]

    @staticmethod
    def compile_model(model: nn.Module, options: dict[str, Any]) -> None:
        """All of it; few sizes of batches and images are met, and sizes left open make slower kernels."""
        model.compile(dynamic=False, options=options)

    def describe(self) -> str:
        """Images and classes."""
        train, val, classes = len(self.source.train), len(self.source.val), len(self.dataset_info.classes)
        return f"{train:,} train and {val:,} test images of {classes} classes"

    def rate_factor(self, step: int, steps_per_epoch: int) -> float:
        """The recipe's schedule."""
        return rate_factor(self.recipe, step, steps_per_epoch)

    def loss(self, model: nn.Module, batch: Batch, key: Key) -> tuple[Tensor, Tensor]:
        """Cross-entropy; a mixed image counts as right when the class it has most of was recognised."""
        x = normalise(batch.pixels, self.dataset_info.mean, self.dataset_info.std)
        x = self.erase(x, key) if self.erase else x
        x, targets = self.mix(x, batch.labels, key)
        with self.accelerator.autocast():
            logits = model(x)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.recipe.label_smoothing)
        correct = (logits.argmax(1) == (targets if targets.ndim == 1 else targets.argmax(1))).sum()
        return loss, torch.stack([loss.detach() / self.parts, correct])

    def metrics(self, sums: Mapping[str, float], steps: int) -> dict[str, float]:
        """Mean loss, and top-1 in %."""
        seen = steps * self.recipe.batch_size
        return {"train/loss": sums["loss"] / steps, "train/top1": 100 * sums["correct"] / seen}

    def validate(self, model: nn.Module) -> dict[str, float | None]:
        """Loss, top-1 and top-5 in %."""
        result = evaluate(model, self.val, self.dataset_info, self.recipe.batch_size, self.accelerator)
        return {"val/loss": result.loss, "val/top1": result.top1, "val/top5": result.top5}

    def as_text(self, row: Row, split: str) -> str:
        """Loss and accuracy."""
        if split == "train":
            return f"loss {row['train/loss']:.4f}  top-1 {row['train/top1']:6.2f} %"
        return f"val loss {row['val/loss']:.4f}  top-1 {row['val/top1']:6.2f} %  top-5 {row['val/top5']:6.2f} %"

    def size(self) -> dict[str, Any]:
        """Parameters, and multiply-accumulates for one image of the evaluated size."""
        total = profile_model(
            self.build_model(self.recipe, len(self.dataset_info.classes)), self.recipe.view().size
        ).total
        return {
            "parameters": total.parameters,
            "parameters_m": total.parameters / 1e6,
            "macs": total.macs,
            "macs_g": total.macs / 1e9,
        }
