"""A run's network, ready to be used."""

from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import nn

from crosslayer.data.augment import normalise
from crosslayer.data.decode import Pixels, View
from crosslayer.training import checkpoint
from crosslayer.training.device import choose_device
from crosslayer.training.networks import build_model, placed
from crosslayer.training.recipe import Recipe, TrainingRecipe
from crosslayer.training.run_directory import DataFacts, RunDirectory

Which = Literal["last", "best"]


class Trained(NamedTuple):
    """A network in evaluation mode, with what it was trained on."""

    run: RunDirectory
    name: str
    recipe: TrainingRecipe
    facts: DataFacts
    model: nn.Module
    device: torch.device
    step: int

    def view(self) -> View:
        """What a classifier looks at of an image."""
        assert isinstance(self.recipe, Recipe), "a detector looks at all of it"
        return self.recipe.view()

    def prepare(self, pixels: Pixels) -> torch.Tensor:
        """Pixels as a classifier takes them."""
        return normalise(pixels.to(self.device), self.facts.mean, self.facts.std)


def load_trained(path: str | Path, which: Which = "last", device: str = "auto") -> Trained:
    """The network of a run directory.

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
    return Trained(run, name, recipe, facts, placed(model, recipe, chosen).eval(), chosen, state["progress"]["step"])
