"""Classification: cross-entropy over augmented images, top-1 and top-5 over the validation split."""

from collections.abc import Mapping
from typing import Any, final

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from crosslayer.data.augment import normalise
from crosslayer.data.images import Batch
from crosslayer.data.mixing import mixer, unmixed
from crosslayer.errors import UsageError
from crosslayer.models.profile import profile_model
from crosslayer.training.data import data_facts, load_data
from crosslayer.training.evaluation import evaluate
from crosslayer.training.launch import Launch
from crosslayer.training.networks import build_model
from crosslayer.training.recipe import Recipe
from crosslayer.training.run_directory import DataFacts
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

    measures = ("loss", "correct")

    def __init__(
        self, name: str, recipe: Recipe, launch: Launch, accelerator: Accelerator, known: DataFacts | None
    ) -> None:
        data = load_data(name, recipe, launch, accelerator)
        self.recipe, self.accelerator = recipe, accelerator
        self.source, self.images, self.val = data.source, data.train, data.val
        self.facts = known or data_facts(recipe, data.source, data.plain)
        if self.facts.classes != data.source.classes:
            raise UsageError(f"--data {recipe.data} has other classes than the run was trained on")
        self.paired = recipe.mixup > 0 or recipe.cutmix > 0
        self.mix = mixer(recipe.mixup, recipe.cutmix, len(self.facts.classes)) if self.paired else unmixed
        self.parts = accelerator.num_processes * recipe.accumulate

    def describe(self) -> str:
        """Images and classes."""
        train, val, classes = len(self.source.train), len(self.source.val), len(self.facts.classes)
        return f"{train:,} train and {val:,} test images of {classes} classes"

    def rate_factor(self, step: int, steps_per_epoch: int) -> float:
        """The recipe's schedule."""
        return rate_factor(self.recipe, step, steps_per_epoch)

    def loss(self, model: nn.Module, batch: Batch, key: Key) -> tuple[Tensor, Tensor]:
        """Cross-entropy; a mixed image counts as right when the class it has most of was recognised."""
        x = normalise(batch.pixels, self.facts.mean, self.facts.std)
        x, targets = self.mix(x, batch.labels, key)
        with self.accelerator.autocast():
            logits = model(x)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.recipe.label_smoothing)
        correct = (logits.argmax(1) == (targets if targets.ndim == 1 else targets.argmax(1))).sum()
        return loss, torch.stack([loss.detach() / self.parts, correct])

    def figures(self, sums: Mapping[str, float], steps: int) -> dict[str, float]:
        """Mean loss, and top-1 in %."""
        seen = steps * self.recipe.batch_size
        return {"train/loss": sums["loss"] / steps, "train/top1": 100 * sums["correct"] / seen}

    def validate(self, model: nn.Module) -> dict[str, float | None]:
        """Loss, top-1 and top-5 in %."""
        result = evaluate(model, self.val, self.facts, self.recipe.batch_size, self.accelerator)
        return {"val/loss": result.loss, "val/top1": result.top1, "val/top5": result.top5}

    def words(self, row: Row, split: str) -> str:
        """Loss and accuracy."""
        if split == "train":
            return f"loss {row['train/loss']:.4f}  top-1 {row['train/top1']:6.2f} %"
        return f"val loss {row['val/loss']:.4f}  top-1 {row['val/top1']:6.2f} %  top-5 {row['val/top5']:6.2f} %"

    def size(self) -> dict[str, Any]:
        """Parameters, and multiply-accumulates for one image of the evaluated size."""
        total = profile_model(build_model(self.recipe, len(self.facts.classes)), self.recipe.view().size).total
        return {
            "parameters": total.parameters,
            "parameters_m": total.parameters / 1e6,
            "macs": total.macs,
            "macs_g": total.macs / 1e9,
        }
