"""What torch.compile makes of a recipe's network."""

import torch
from torch import nn

from crosslayer.detection.recipe import DetectionRecipe
from crosslayer.errors import UsageError
from crosslayer.training.recipe import TrainingRecipe


def check_compilation(recipe: TrainingRecipe, device: torch.device) -> None:
    """Raises UsageError where the device has no CUDA graphs."""
    if recipe.compile == "graphs" and device.type != "cuda":
        raise UsageError(f"--compile graphs needs a CUDA device, and this run is on {device}; use --compile on")


def compile_model(model: nn.Module, recipe: TrainingRecipe) -> None:
    """Compiles a network in place, if the recipe says so; of a detector, the part that is the same for every image.

    A classifier meets few sizes of batches and images, so each is compiled by itself: sizes left open make slower
    kernels. Kernels are chosen by rule instead of by timing them, or a resumed run would not continue to the bit.
    """
    options: dict[str, str | int | bool | object] = {"deterministic": True}
    if recipe.compile == "graphs":
        options["triton.cudagraphs"] = True  # all that torch.compile's mode reduce-overhead is
    if isinstance(recipe, DetectionRecipe):
        model.get_submodule("backbone.body").compile(dynamic=True, options=options)
    else:
        model.compile(dynamic=False, options=options)
