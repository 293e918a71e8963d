"""The recipe's data: splits, augmentation, and what the network must be told of them."""

import dataclasses
from typing import NamedTuple

import torch
from accelerate import Accelerator

from crosslayer.data.decode import evenly_spaced
from crosslayer.data.images import Batch, Images, StreamedImages, load_images
from crosslayer.data.resized_crops import Augmentation, ResizedCrops
from crosslayer.data.sources import open_source
from crosslayer.data.split import Source
from crosslayer.data.training_images import PadCrops, TrainingImages
from crosslayer.errors import UsageError
from crosslayer.training.launch import Launch
from crosslayer.training.recipe import NO_DATA, Recipe
from crosslayer.training.recipes import DATASETS
from crosslayer.training.records import DatasetInfo

STATISTICS_SAMPLE = 4096
"""Images, evenly spaced over the training set, that its mean and standard deviation are taken from."""


class Data(NamedTuple):
    """A data set as one run looks at it."""

    source: Source
    train: TrainingImages[Batch]
    plain: Images
    """The training images without augmentation."""
    val: Images


def load_data(name: str, recipe: Recipe, launch: Launch, accelerator: Accelerator) -> Data:
    """The data set and its two splits; the main process decodes first, the others find its cache.

    Raises:
        UsageError: no data was named, or it cannot be kept the way that was asked for.
    """
    resized = recipe.crop == "resized"
    if recipe.data == NO_DATA:
        raise UsageError(f"recipe {name} has no data of its own: give --data a folder, or hf://OWNER/NAME")
    if resized and launch.loader == "resident":
        raise UsageError("--loader resident keeps images of one size; --crop resized needs them whole: use auto")
    device, workers = accelerator.device, launch.workers
    with accelerator.main_process_first():
        source = open_source(recipe.data, DATASETS.get(name), recipe.val_split)
        val = load_images(source.val, recipe.view(), device, workers, launch.loader, "decoding val")
        view = dataclasses.replace(recipe.view(), size=recipe.image_size)
        if resized:
            plain = StreamedImages(source.train, view, device, workers)
        else:
            plain = load_images(source.train, view, device, workers, launch.loader, "decoding train")
    train = resized_crops(source, recipe, device, workers) if resized else PadCrops(plain, recipe.pad, recipe.flip)
    return Data(source, train, plain, val)


def resized_crops(source: Source, recipe: Recipe, device: torch.device, workers: int) -> ResizedCrops:
    """The training split as the recipe augments it."""
    how = Augmentation(recipe.image_size, recipe.crop_scale, recipe.flip, recipe.rand_augment, recipe.interpolation)
    return ResizedCrops(source.train, how, device, workers)


def dataset_info(recipe: Recipe, source: Source, plain: Images) -> DatasetInfo:
    """Classes and normalisation: the pretrained weights' own, or else the training set's."""
    if recipe.graft:
        from crosslayer.training.grafting import normalisation

        if known := normalisation(recipe):
            return DatasetInfo(source.classes, *known)
    return DatasetInfo(source.classes, *statistics(plain))


def statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over a sample."""
    sample = evenly_spaced(len(images), STATISTICS_SAMPLE)
    total, squares, pixels = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0
    for batch in images.batches(sample.split(512)):
        x = batch.pixels.cpu().double() / 255
        total += x.sum((0, 2, 3))
        squares += x.square().sum((0, 2, 3))
        pixels += x[:, 0].numel()
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp_min(1e-4).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())
