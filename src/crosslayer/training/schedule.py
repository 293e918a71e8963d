"""The learning rate: a pure function of the recipe and the step."""

import math
from collections.abc import Sequence

from crosslayer.training.recipe import Recipe, TrainingRecipe


def rate_factor(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """What every learning rate is multiplied with: linear warm-up, then the recipe's way down."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    if recipe.schedule == "milestones":
        return warmed(step, warmup, 0.01) * decayed(step, recipe.milestones, steps_per_epoch)
    if recipe.schedule == "step":
        return warmed(step, warmup, 0.01) * recipe.decay_rate ** (step // steps_per_epoch // recipe.decay_epochs)
    done = max(0, step - warmup) / (recipe.epochs * steps_per_epoch - warmup)
    return warmed(step, warmup, 0.01) * (
        1 - done if recipe.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    )


def warmed(step: int, steps: int, start: float) -> float:
    """A straight line from `start` to 1 over so many steps."""
    return 1.0 if step >= steps else start + (1 - start) * step / steps


def decayed(step: int, milestones: tuple[int, ...], steps_per_epoch: int) -> float:
    """A tenth after each of the milestones, in epochs."""
    return 0.1 ** sum(step >= milestone * steps_per_epoch for milestone in milestones)


def final_step(recipe: TrainingRecipe, steps_per_epoch: int) -> int:
    """The optimizer step that training ends with."""
    whole = recipe.total_epochs * steps_per_epoch
    return min(whole, recipe.max_steps or whole)


def out_of_patience(recipe: TrainingRecipe, scores: Sequence[float]) -> bool:
    """Whether the last `patience` of the finished epochs' scores are no better than the best before them."""
    if recipe.patience is None or len(scores) <= recipe.patience:
        return False
    return max(scores[-recipe.patience :]) <= max(scores[: -recipe.patience])
