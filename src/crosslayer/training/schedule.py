"""The learning rate: a pure function of the recipe and the step."""

import math

from crosslayer.training.recipe import Recipe, TrainingRecipe


def rate_factor(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """What every learning rate is multiplied with: linear warm-up, then steps of a tenth or a half cosine to zero."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    warm = 1.0 if step >= warmup else 0.01 + 0.99 * step / warmup
    if recipe.schedule == "cosine":
        done = max(0, step - warmup) / (recipe.epochs * steps_per_epoch - warmup)
        return warm * (1 + math.cos(math.pi * done)) / 2
    decays = sum(step >= milestone * steps_per_epoch for milestone in recipe.milestones)
    return warm * 0.1**decays


def final_step(recipe: TrainingRecipe, steps_per_epoch: int) -> int:
    """The optimizer step that training ends with."""
    whole = recipe.total_epochs * steps_per_epoch
    return min(whole, recipe.max_steps or whole)
