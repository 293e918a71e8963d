"""What learns: the network, its optimizer, and the moving average of its weights."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from crosslayer.data.chance import MODEL, seeded
from crosslayer.detection.recipe import DetectionRecipe
from crosslayer.training import checkpoint
from crosslayer.training.average import Average
from crosslayer.training.compilation import compile_model
from crosslayer.training.networks import build_model, placed
from crosslayer.training.recipe import Recipe, TrainingRecipe

BACKBONE, GRAFT = "backbone", "graft"
"""Names of parameter groups."""


class Learner(NamedTuple):
    """A network and what changes it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None
    """Follows the network's weights and statistics, if the recipe says so."""
    graphs: bool = False
    """Whether the network runs as CUDA graphs, which leave outputs and gradients in memory they will write to again."""

    def set_rates(self, recipe: TrainingRecipe, factor: float) -> None:
        """Every group's learning rate: its own of the recipe, times the schedule's factor."""
        own = {BACKBONE: recipe.lr, GRAFT: recipe.graft_lr or recipe.lr}
        for group in self.optimizer.param_groups:
            group["lr"] = own[group["name"]] * factor

    def start_epoch(self, *, keep_statistics: bool) -> None:
        """Training mode; with `keep_statistics` the backbone's batch normalisation uses and keeps those it has."""
        self.model.train()
        if not keep_statistics:
            return
        learning = {parameter for group in self.groups(GRAFT) for parameter in group["params"]}
        for module in self.model.modules():
            if isinstance(module, _BatchNorm) and not learning & set(module.parameters(recurse=False)):
                module.eval()

    def begin_pass(self) -> None:
        """Before a pass forward: what CUDA graphs left in their memory may be overwritten."""
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()

    def keep_gradients(self) -> None:
        """After a part's pass backward: its gradients outlive the next part's, which are added to them."""
        if not self.graphs:
            return
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad = parameter.grad.clone()

    def drop_backbone_gradients(self) -> None:
        """A frozen backbone gets no update: neither gradient nor decay nor momentum.

        Gradients are dropped rather than never computed, since DDP and compiled graphs keep what they began with.
        """
        for group in self.groups(BACKBONE):
            for parameter in group["params"]:
                parameter.grad = None

    def groups(self, name: str) -> list[dict[str, Any]]:
        """The parameter groups of this name."""
        return [group for group in self.optimizer.param_groups if group["name"] == name]


def build_learner(
    recipe: TrainingRecipe, num_classes: int, accelerator: Accelerator, run: Path, state: dict[str, Any] | None
) -> Learner:
    """Network, optimizer and average on the device, new or as a checkpoint has them."""
    torch.backends.cudnn.deterministic = True  # or a resumed run would not continue to the bit
    torch.manual_seed(seeded(recipe.seed, MODEL))
    model = build_model(recipe, num_classes, begin=state is None)
    if state:
        checkpoint.restore(model, state["raw"] or state["model"], run)
    model = placed(model, recipe, accelerator.device)
    average = Average(model, recipe.ema) if recipe.ema else None
    if average and state:
        checkpoint.restore(average.module, state["model"], run)
    if recipe.compile != "off":
        compile_model(model, recipe)
    optimizer = build_optimizer(model, recipe)
    if state:
        optimizer.load_state_dict(state["optimizer"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
    model, prepared = accelerator.prepare(model, optimizer)
    # Its own optimizer, since accelerate's wrapper looks for a package on the disk at every step.
    return Learner(model, prepared.optimizer, average, graphs=recipe.compile == "graphs")


def build_optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW, over named groups of parameters."""
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True)


def parameter_groups(model: nn.Module, recipe: TrainingRecipe) -> list[dict[str, Any]]:
    """The parameters that learn, in groups that each have a rate."""
    if isinstance(recipe, DetectionRecipe):
        from crosslayer.detection.groups import groups_of_detector

        return groups_of_detector(model)
    if isinstance(recipe, Recipe) and recipe.graft:
        from crosslayer.training.grafting import groups_of_graft

        return groups_of_graft(model, recipe)
    return [{"params": list(model.parameters()), "name": BACKBONE}]
