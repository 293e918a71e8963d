"""What a recipe may hold: every fault is one sentence."""

from typing import TYPE_CHECKING

from crosslayer.errors import UsageError

if TYPE_CHECKING:
    from crosslayer.training.recipe import Recipe, TrainingRecipe

SHARED_LEAST = {
    "epochs": 1,
    "max_steps": 1,
    "batch_size": 1,
    "accumulate": 1,
    "freeze_epochs": 0,
    "weight_decay": 0,
    "seed": 0,
}
"""Of fields that all recipes have."""
LEAST = {"image_size": 1, "eval_size": 1, "pad": 0, "mixup": 0, "cutmix": 0, "warmup_epochs": 0}
SHARED_SHARES = ("drop_path", "momentum", "ema")
"""Fields of all recipes in [0, 1)."""
PARTS = ("crop_scale", "eval_crop")
"""Fields in (0, 1]."""


def flag(name: str) -> str:
    """A field's command-line option."""
    return "--" + name.replace("_", "-")


def check(recipe: "Recipe") -> None:
    """Raises UsageError for a value outside its range, or values that contradict each other."""
    check_shared(recipe)
    check_ranges(recipe)
    check_schedule(recipe)
    check_augmentation(recipe)
    check_graft(recipe)


def check_shared(recipe: "TrainingRecipe") -> None:
    """Every number, on its own, that all recipes have; milestones rise."""
    for name, least in SHARED_LEAST.items():
        if (value := getattr(recipe, name)) is not None and value < least:
            raise UsageError(f"{flag(name)} is {value}; it must be at least {least}")
    for name in SHARED_SHARES:
        if not 0 <= getattr(recipe, name) < 1:
            raise UsageError(f"{flag(name)} is {getattr(recipe, name)}; it must be in [0, 1)")
    for name in ("lr", "graft_lr"):
        if (value := getattr(recipe, name)) is not None and not value > 0:
            raise UsageError(f"{flag(name)} is {value}; it must be above 0")
    if list(recipe.milestones) != sorted(set(recipe.milestones)):
        raise UsageError(f"--milestones are {recipe.milestones}; they must be rising epochs")


def check_ranges(recipe: "Recipe") -> None:
    """Every number of a classifier's recipe, on its own."""
    for name, least in LEAST.items():
        if (value := getattr(recipe, name)) is not None and value < least:
            raise UsageError(f"{flag(name)} is {value}; it must be at least {least}")
    if not 0 <= recipe.label_smoothing < 1:
        raise UsageError(f"--label-smoothing is {recipe.label_smoothing}; it must be in [0, 1)")
    for name in PARTS:
        if not 0 < getattr(recipe, name) <= 1:
            raise UsageError(f"{flag(name)} is {getattr(recipe, name)}; it must be in (0, 1]")


def check_schedule(recipe: "Recipe") -> None:
    """A cosine needs room after the warm-up."""
    if recipe.schedule == "cosine" and recipe.warmup_epochs >= recipe.epochs:
        raise UsageError(
            f"--warmup-epochs {recipe.warmup_epochs} leaves nothing of --epochs {recipe.epochs} for the cosine"
        )


def check_augmentation(recipe: "Recipe") -> None:
    """RandAugment works on single images of any size, so it needs resized crops."""
    if recipe.rand_augment is None:
        return
    if recipe.crop != "resized":
        raise UsageError("--rand-augment needs --crop resized")
    from crosslayer.data.resized_crops import rand_augment  # brings timm's augmentations, which most recipes need not

    try:
        rand_augment(recipe.rand_augment, recipe.image_size)
    except ValueError as error:
        raise UsageError(f"--rand-augment: {error}") from error


def check_graft(recipe: "Recipe") -> None:
    """What is said of a graft needs one."""
    if recipe.graft:
        return
    for name in ("pretrained", "weights", "graft_lr", "freeze_epochs", "freeze_norm"):
        if value := getattr(recipe, name):
            raise UsageError(f"{flag(name)}{'' if value is True else f' {value}'} needs --graft (a network of timm)")
