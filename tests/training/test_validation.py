"""Every value that a recipe refuses, in one sentence."""

import pytest

from crosslayer.errors import UsageError
from crosslayer.training.launch import Launch
from crosslayer.training.recipe import Recipe
from crosslayer.training.recipes import RECIPES


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eval_size": 0}, "--eval-size is 0; it must be at least 1"),
        ({"mixup": -0.1}, "--mixup is -0.1; it must be at least 0"),
        ({"cutmix": -1}, "--cutmix is -1; it must be at least 0"),
        ({"freeze_epochs": -1}, "--freeze-epochs is -1; it must be at least 0"),
        ({"ema": 1.0}, r"--ema is 1.0; it must be in \[0, 1\)"),
        ({"crop_scale": 0.0}, r"--crop-scale is 0.0; it must be in \(0, 1\]"),
        ({"eval_crop": 1.5}, r"--eval-crop is 1.5; it must be in \(0, 1\]"),
        ({"graft_lr": 0.0, "graft": True}, "--graft-lr is 0.0; it must be above 0"),
        ({"schedule": "cosine", "epochs": 3, "warmup_epochs": 3}, "--warmup-epochs 3 leaves nothing of --epochs 3"),
        ({"rand_augment": "rand-m9"}, "--rand-augment needs --crop resized"),
        ({"rand_augment": "m9", "crop": "resized"}, "--rand-augment: 'm9' is no RandAugment configuration of timm"),
        ({"pretrained": True}, r"--pretrained needs --graft \(a network of timm\)"),
        ({"weights": "x.pt"}, "--weights x.pt needs --graft"),
        ({"graft_lr": 0.1}, "--graft-lr 0.1 needs --graft"),
        ({"freeze_epochs": 1}, "--freeze-epochs 1 needs --graft"),
    ],
)
def test_refused(fields: dict, message: str):
    with pytest.raises(UsageError, match=message):
        Recipe(**fields)


def test_saving_within_epochs_needs_steps():
    with pytest.raises(UsageError, match="--save-steps is 0; it must be at least 1"):
        Launch(save_steps=0)


def test_the_papers_imagenet_settings():
    recipe = RECIPES["imagenet"]()
    assert (recipe.batch_size, recipe.lr, recipe.momentum, recipe.weight_decay) == (256, 0.1, 0.9, 1e-4)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.milestones) == (100, 3, (30, 60, 90))
    assert (recipe.crop, recipe.crop_scale, recipe.flip) == ("resized", 0.08, True)
    assert round(recipe.view().size / recipe.view().crop) == 256


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_documented(name: str):
    recipe = RECIPES[name]()
    assert RECIPES[name].__doc__
    if isinstance(recipe, Recipe):
        assert recipe.view().size >= recipe.image_size
