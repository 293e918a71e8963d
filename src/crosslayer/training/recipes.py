"""Recipes by name: what each option is where nothing else is said."""

import dataclasses
from collections.abc import Callable
from importlib import import_module

from crosslayer.data.sources import DIGITS, default_download_folder
from crosslayer.training.recipe import NO_DATA, Recipe, TrainingRecipe


def digits() -> Recipe:
    """Real handwritten digits that scikit-learn ships, 16×16: a whole training in half a minute on a CPU."""
    return Recipe(
        data=DIGITS,
        image_size=16,
        pad=2,
        flip=False,
        epochs=12,
        batch_size=64,
        warmup_epochs=1,
        milestones=(8, 11),
        drop_path=0.0,
    )


def cifar10() -> Recipe:
    """CIFAR-10 with the settings of the paper's Table 1."""
    return Recipe(data=default_download_folder("cifar10"))


def cifar100() -> Recipe:
    """CIFAR-100 with the settings of the paper's Table 1."""
    return Recipe(data=default_download_folder("cifar100"))


def cifar10_budget() -> Recipe:
    """CIFAR-10 by the recipe of cifar100_budget."""
    return _within_budget(cifar10())


def cifar100_budget() -> Recipe:
    """CIFAR-100 in a quarter of an hour on two cores with bf16, plain network; chosen on it, on held-out images."""
    return _within_budget(cifar100())


def _within_budget(recipe: Recipe) -> Recipe:
    """The study `budget_recipe` compares every ingredient with its neighbours."""
    return dataclasses.replace(
        recipe,
        drop_path=0.0,
        epochs=12,
        lr=0.2,
        nesterov=True,
        schedule="linear",
        milestones=(),
        warmup_epochs=2,
        weight_decay=5e-4,
        decay_vectors=False,
        label_smoothing=0.1,
        precision="bf16",
    )


def imagenet() -> Recipe:
    """ImageNet with the paper's settings: 100 epochs in steps, 224×224, tested on the centre of 256."""
    return Recipe(
        backbone="resnet50",
        data=NO_DATA,
        image_size=224,
        crop="resized",
        interpolation="bilinear",
        eval_crop=0.875,
        epochs=100,
        batch_size=256,
        milestones=(30, 60, 90),
        warmup_epochs=3,
    )


def imagenet_fast() -> Recipe:
    """ImageNet in 18 epochs: 160×160 images of mixed precision, a cosine, label smoothing; tested at 224×224."""
    return dataclasses.replace(
        imagenet(),
        drop_path=0.0,
        image_size=160,
        crop_scale=0.25,
        eval_size=224,
        epochs=18,
        batch_size=1024,
        lr=2.0,
        weight_decay=5e-5,
        schedule="cosine",
        warmup_epochs=2,
        label_smoothing=0.1,
        precision="bf16",
    )


def imagenet_efficientnet() -> Recipe:
    """EfficientNet-B0 as MRLA's authors train it: 350 epochs of RMSprop, a rate that falls by 3 % every 2.4 epochs."""
    return dataclasses.replace(
        imagenet(),
        backbone="efficientnet_b0",
        graft=True,
        interpolation="bicubic",
        rand_augment="rand-m9-mstd0.5",
        random_erasing=0.2,
        dropout=0.2,
        stochastic_depth=0.2,
        epochs=350,
        batch_size=768,
        optimizer="rmsprop",
        lr=0.048,
        schedule="step",
        weight_decay=1e-5,
        decay_vectors=False,
        label_smoothing=0.1,
        precision="bf16",
    )


def imagenet_pvt() -> Recipe:
    """PVT v2 as its own authors train it, since MRLA's say nothing else: 300 epochs of AdamW along a cosine."""
    return dataclasses.replace(
        imagenet(),
        backbone="pvt_v2_b0",
        graft=True,
        interpolation="bicubic",
        rand_augment="rand-m9-mstd0.5-inc1",
        random_erasing=0.25,
        mixup=0.8,
        cutmix=1.0,
        stochastic_depth=0.1,
        epochs=300,
        batch_size=1024,
        optimizer="adamw",
        lr=1e-3,
        schedule="cosine",
        warmup_epochs=5,
        weight_decay=0.05,
        decay_vectors=False,
        label_smoothing=0.1,
        precision="bf16",
    )


def finetune() -> Recipe:
    """A pretrained network of timm, the mechanism grafted on, for a small set of photographs."""
    return Recipe(
        backbone="tf_efficientnet_lite0",
        graft=True,
        pretrained=True,
        drop_path=0.1,
        data=NO_DATA,
        image_size=224,
        crop="resized",
        crop_scale=0.25,
        rand_augment="rand-m7-mstd0.5-inc1",
        eval_crop=0.875,
        mixup=0.2,
        epochs=20,
        batch_size=64,
        optimizer="adamw",
        lr=2e-4,
        graft_lr=2e-3,
        freeze_epochs=1,
        freeze_norm=True,
        schedule="cosine",
        warmup_epochs=1,
        weight_decay=0.02,
        ema=0.998,
        label_smoothing=0.1,
    )


RECIPES: dict[str, Callable[[], TrainingRecipe]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cifar10_budget": cifar10_budget,
    "cifar100_budget": cifar100_budget,
    "imagenet": imagenet,
    "imagenet_fast": imagenet_fast,
    "imagenet_efficientnet": imagenet_efficientnet,
    "imagenet_pvt": imagenet_pvt,
    "finetune": finetune,
    **import_module("crosslayer.detection.recipe").RECIPES,
}
DATASETS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "cifar10_budget": "CIFAR10", "cifar100_budget": "CIFAR100"}
"""Torchvision's name for the data set that a recipe is about."""
EXTENDABLE = {"epochs", "max_steps", "patience"}
"""Fields of a recipe that may differ when a run is resumed: they say how far it goes."""
