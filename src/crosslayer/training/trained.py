"""A run's network, ready to be used."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import nn

from crosslayer.data.augment import normalise
from crosslayer.data.decode import Pixels, View, decode_batch, evenly_spaced
from crosslayer.data.sources import open_source
from crosslayer.data.split import Source
from crosslayer.training import checkpoint
from crosslayer.training.launch import choose_device
from crosslayer.training.learner import build_model, placed
from crosslayer.training.recipe import Recipe, TrainingRecipe
from crosslayer.training.recipes import DATASETS
from crosslayer.training.records import DatasetInfo
from crosslayer.training.run_directory import RunDirectory

Which = Literal["last", "best"]
BATCH = 64
"""Images that are looked at together."""


class Trained(NamedTuple):
    """A network in evaluation mode, with what it was trained on."""

    run: RunDirectory
    name: str
    recipe: TrainingRecipe
    dataset_info: DatasetInfo
    model: nn.Module
    device: torch.device
    step: int

    def source(self, data: str | None = None, val_split: float | None = None) -> Source:
        """A classifier's data set, or other data that are meant to have its classes."""
        assert isinstance(self.recipe, Recipe), "a detector's images are a scene each"
        own = self.recipe.val_split if data in (None, self.recipe.data) else 0.0
        return open_source(data or self.recipe.data, DATASETS.get(self.name), own if val_split is None else val_split)

    def val_batches(self, count: int, data: str | None = None) -> Iterator[torch.Tensor]:
        """At most so many validation images, evenly spaced over the split, as a classifier takes them."""
        split, view = self.source(data).val, self.view()
        for indices in evenly_spaced(len(split), count).split(BATCH):
            yield self.prepare(decode_batch(split, indices.tolist(), view))

    def view(self) -> View:
        """What a classifier looks at of an image."""
        assert isinstance(self.recipe, Recipe), "a detector looks at all of it"
        return self.recipe.view()

    def prepare(self, pixels: Pixels) -> torch.Tensor:
        """Pixels as a classifier takes them."""
        return normalise(pixels.to(self.device), self.dataset_info.mean, self.dataset_info.std)


def likeliest(logits: torch.Tensor, names: Sequence[str], count: int) -> list[list[tuple[str, float]]]:
    """Of each image of a batch, the likeliest classes and their probabilities, falling."""
    probabilities, classes = logits.float().softmax(1).cpu().topk(min(count, len(names)))
    return [
        [(names[int(i)], probability) for i, probability in zip(order, row, strict=True)]
        for order, row in zip(classes.tolist(), probabilities.tolist(), strict=True)
    ]


def load_trained(path: str | Path, which: Which = "last", device: str = "auto", *, fused: bool = True) -> Trained:
    """The network of a run directory; without `fused`, in plain PyTorch.

    Raises:
        UsageError: there is no run, or it has no checkpoint yet.
        FailedError: its checkpoint is truncated, or of another recipe.
    """
    run = RunDirectory(path)
    name, recipe, facts = run.read()
    state = checkpoint.load_checkpoint(checkpoint.find_checkpoint(run.checkpoints, which))
    model = build_model(recipe, len(facts.classes))
    checkpoint.restore(model, state["model"], run.path)
    chosen = choose_device(device)
    model = placed(model, dataclasses.replace(recipe, fused=recipe.fused and fused), chosen).eval()
    return Trained(run, name, recipe, facts, model, chosen, state["progress"]["step"])
