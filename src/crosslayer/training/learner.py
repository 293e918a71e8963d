"""What learns: the network, its optimizer, what is compiled of it, and the moving average of its weights."""

from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from accelerate import Accelerator
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from crosslayer.data.rng import MODEL, seeded
from crosslayer.errors import UsageError
from crosslayer.fused import fuse
from crosslayer.training import checkpoint
from crosslayer.training.recipe import TrainingRecipe
from crosslayer.training.task import task_of


@final
class ModelEma(ModelEmaV3):
    """Timm's average with its warm-up, which looks for the tensors of both networks once and not at every step.

    To look takes milliseconds where there are hundreds of modules. The network that is followed must stay the same.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, decay, use_warmup=True)
        self.averages: list[Tensor] = []
        self.followed: list[Tensor] = []
        self.copies: list[Tensor] = []
        self.copied: list[Tensor] = []

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """Floating-point tensors move by 1 − `decay` of the way, counters are copied."""
        if not self.averages:
            self.find_tensors(model)
        # Torch has no public names for these; timm calls them too.
        torch._foreach_lerp_(self.averages, self.followed, weight=1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_copy_(self.copies, self.copied)  # pyright: ignore[reportPrivateImportUsage]

    def find_tensors(self, model: nn.Module) -> None:
        """Pairs what belongs together."""
        for ours, theirs in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            moves = ours.is_floating_point()
            (self.averages if moves else self.copies).append(ours)
            (self.followed if moves else self.copied).append(theirs)


def check_compilation(recipe: TrainingRecipe, device: torch.device) -> None:
    """Raises UsageError where the device has no CUDA graphs."""
    if recipe.compile == "graphs" and device.type != "cuda":
        raise UsageError(f"--compile graphs needs a CUDA device, and this run is on {device}; use --compile on")


def compile_model(model: nn.Module, recipe: TrainingRecipe) -> None:
    """Compiles a network in place, if the recipe says so; of a detector, the part that is the same for every image.

    Kernels are chosen by rule instead of by timing them, or a resumed run would not continue to the bit.
    """
    options: dict[str, str | int | bool | object] = {"deterministic": True}
    if recipe.compile == "graphs":
        options["triton.cudagraphs"] = True  # all that torch.compile's mode reduce-overhead is
    task_of(recipe).compile_model(model, options)


def build_model(recipe: TrainingRecipe, num_classes: int, *, begin: bool = False) -> nn.Module:
    """The recipe's network, or a UsageError that says what is wrong with its name or options.

    Args:
        recipe: names the backbone, the mechanism and its options.
        num_classes: outputs of the classifier, or kinds of objects.
        begin: a run begins with it: pretrained weights are loaded, if the recipe names any.
    """
    return task_of(recipe).build_model(recipe, num_classes, begin=begin)


def placed(model: nn.Module, recipe: TrainingRecipe, device: torch.device) -> nn.Module:
    """The network on a device, in the recipe's memory format, fused if the recipe says so."""
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model = model.to(device, memory_format=memory_format)  # pyright: ignore[reportCallIssue]  # torch's stub lacks it
    if recipe.fused and recipe.channels_last:
        fuse(model)
    return model


BACKBONE, GRAFT = "backbone", "graft"
"""Names of parameter groups."""


class Learner(NamedTuple):
    """A network and what changes it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: ModelEma | None
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
    ema = ModelEma(model, recipe.ema) if recipe.ema else None
    if ema and state:
        checkpoint.restore(ema.module, state["model"], run)
    if recipe.compile != "off":
        compile_model(model, recipe)
    optimizer = build_optimizer(model, recipe)
    if state:
        optimizer.load_state_dict(state["optimizer"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
    model, prepared = accelerator.prepare(model, optimizer)
    # Its own optimizer, since accelerate's wrapper looks for a package on the disk at every step.
    return Learner(model, prepared.optimizer, ema, graphs=recipe.compile == "graphs")


def build_optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """The recipe's, over named groups of parameters."""
    groups = task_of(recipe).parameter_groups(model, recipe)
    if not recipe.decay_vectors:
        groups = [part for group in groups for part in _without_decay_of_vectors(group)]
    decay = recipe.weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=decay, fused=True)
    momentum, nesterov = recipe.momentum, recipe.nesterov
    if recipe.optimizer == "rmsprop":
        from timm.optim.rmsprop_tf import RMSpropTF

        return RMSpropTF(groups, recipe.lr, alpha=0.9, eps=1e-3, weight_decay=decay, momentum=momentum)
    return torch.optim.SGD(groups, recipe.lr, momentum, weight_decay=decay, nesterov=nesterov, fused=True)


def _without_decay_of_vectors(group: dict[str, Any]) -> list[dict[str, Any]]:
    """A group as one of matrices and kernels and, without weight decay, one of everything smaller."""
    larger = [parameter for parameter in group["params"] if parameter.ndim > 1]
    vectors = [parameter for parameter in group["params"] if parameter.ndim < 2]
    parts = [{**group, "params": larger}, {**group, "params": vectors, "weight_decay": 0.0}]
    return [part for part in parts if part["params"]]
