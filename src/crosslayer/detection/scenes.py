"""Images with their objects: decoded, augmented, and batched by shape, in worker processes."""

import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from crosslayer.data.decode import opened
from crosslayer.data.pictures import rgb_of_size
from crosslayer.data.rng import AUGMENTATION, seed_global_generators
from crosslayer.data.split import FileSplit
from crosslayer.data.training_images import Part, TrainingImages
from crosslayer.data.workers import Workers
from crosslayer.detection.coco import Annotations
from crosslayer.detection.shapes import draw_all
from crosslayer.errors import FailedError

Target = dict[str, Tensor]
FILL = (124, 116, 104)
"""ImageNet's mean colour, around a scaled image that is smaller than its square."""


class Scene(NamedTuple):
    """One image, 3 × height × width, uint8, and its objects: `boxes`, `labels` and, if wanted, `masks`."""

    image: Tensor
    target: Target


class Augmentation(NamedTuple):
    """What chance does to an image and its objects.

    Args:
        flip: mirror every second image.
        jitter: large-scale jitter (arXiv 2012.07177): scale the image to 0.1 to 2 times what fits a square of this
            side, and cut the square out.
    """

    flip: bool = True
    jitter: int | None = None

    def transform(self) -> Callable[..., Any]:
        """Torchvision's transforms, of an image and its objects together."""
        steps: list[Callable[..., Any]] = [v2.RandomHorizontalFlip()] if self.flip else []
        if self.jitter:
            square = (self.jitter, self.jitter)
            fill: dict[Any, Any] = {tv_tensors.Image: FILL, "others": 0}
            steps += [
                _ScaleJitter(square, (0.1, 2.0)),
                v2.RandomCrop(square, pad_if_needed=True, fill=fill),
                v2.SanitizeBoundingBoxes(),
            ]
        return v2.Compose(steps) if steps else unchanged


class _ScaleJitter(v2.ScaleJitter):
    """Torchvision's, of strips too: their shorter side keeps a pixel."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = super().make_params(flat_inputs)["size"]
        return {"size": (max(1, height), max(1, width))}


def unchanged(*inputs: Any) -> tuple[Any, ...]:
    """What it was given."""
    return inputs


@final
class SceneDataset(Dataset[list[Scene] | FailedError]):
    """What a worker works with: a part of the plan in, its scenes out.

    Args:
        annotations: the images and their objects.
        augmentation: none for evaluation.
    """

    def __init__(self, annotations: Annotations, augmentation: Augmentation | None) -> None:
        self.annotations, self.augmentation = annotations.without_truth(), augmentation
        self.files = FileSplit(annotations.paths, np.zeros(len(annotations)), fingerprint="")

    @functools.cached_property
    def transform(self) -> Callable[..., Any]:
        """Built where it is used."""
        return self.augmentation.transform() if self.augmentation else unchanged

    def __getitem__(self, part: Part) -> list[Scene] | FailedError:
        """The part's scenes, or an image's fault."""
        try:
            return [self.scene(part.key, i) for i in part.indices.tolist()]
        except FailedError as error:
            return error

    def scene(self, key: tuple[int, int], i: int) -> Scene:
        """Image i and its objects, as (seed, epoch, i) has them."""
        width, height = self.annotations.sizes[i].tolist()
        with opened(self.files, i) as image:
            pixels = as_annotated(image, (width, height), self.files.name(i))
        seed_global_generators(key[0], AUGMENTATION, key[1], i)
        image, target = self.transform(tv_tensors.Image(pixels), self.target(i, height, width))
        return Scene(image.as_subclass(Tensor), {name: part.as_subclass(Tensor) for name, part in target.items()})

    def target(self, i: int, height: int, width: int) -> Target:
        """Image i's objects."""
        own = self.annotations.objects(i)
        canvas = (height, width)
        target: Target = {
            "boxes": tv_tensors.BoundingBoxes(self.annotations.boxes[own], format="XYXY", canvas_size=canvas),  # pyright: ignore[reportCallIssue]  # torchvision's own documented call
            "labels": self.annotations.labels[own],
        }
        if self.annotations.shapes is not None:
            texts = [self.annotations.shapes[k] for k in range(own.start, own.stop)]
            target["masks"] = tv_tensors.Mask(draw_all(texts, height, width))
        return target


def as_annotated(image: Image.Image, size: tuple[int, int], name: str) -> Tensor:
    """RGB pixels, 3 × height × width, of the size that the annotations are for.

    COCO's tools look at pixels as they are stored, whatever the camera noted of its position; sets that were annotated
    on the upright picture have its width and height in their annotations.

    Raises:
        FailedError: the image has another size.
        ValueError: pixels whose black and white are not known.
    """
    rgb = rgb_of_size(image, size)
    if rgb is None:
        stored, noted = ("×".join(map(str, sides)) for sides in (image.size, size))
        raise FailedError(f"{name} has {stored} pixels, its annotations say {noted}")
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


@final
class TrainingScenes(TrainingImages[list[Scene]]):
    """The images to train on, in parts of similar shape.

    Args:
        annotations: all images.
        augmentation: what chance does to them.
        keep_empty: take images without objects too.
        device: where parts are wanted.
        workers: processes that decode; 0 for this one.

    Raises:
        FailedError: no image has an object.
    """

    def __init__(
        self,
        annotations: Annotations,
        augmentation: Augmentation,
        *,
        keep_empty: bool,
        device: torch.device,
        workers: int,
    ) -> None:
        filled = annotations.counts() > 0
        if not filled.any():
            raise FailedError(f"annotations {annotations.file} have no object to learn from")
        self.chosen = torch.arange(len(annotations)) if keep_empty else filled.nonzero()[:, 0]
        width, height = annotations.sizes[self.chosen].unbind(1)
        self.wide = width >= height
        self.device = device
        dataset = SceneDataset(annotations, augmentation)
        self.workers: Workers[Part, list[Scene]] = Workers(dataset, workers, pinned=device.type == "cuda")

    def __len__(self) -> int:
        return len(self.chosen)

    def order(self, chance: torch.Generator, part_size: int) -> Tensor:
        """Shuffled, wide images and tall ones in parts of their own, so that little of a batch is padding.

        What fills no part of its own makes parts of both, the last of which may be short.
        """
        shuffled = torch.randperm(len(self), generator=chance)
        groups = [shuffled[self.wide[shuffled]], shuffled[~self.wide[shuffled]]]
        whole = [group[: len(group) // part_size * part_size] for group in groups]
        rest = torch.cat([group[len(part) :] for group, part in zip(groups, whole, strict=True)])
        mixed = rest[torch.randperm(len(rest), generator=chance)]
        end = len(mixed) // part_size * part_size
        parts = torch.cat([*whole, mixed[:end]]).view(-1, part_size)
        return torch.cat([parts[torch.randperm(len(parts), generator=chance)].flatten(), mixed[end:]])

    def batches(self, plan: Iterable[Part]) -> Generator[list[Scene]]:
        """The parts in order, whatever worker was first.

        Raises:
            FailedError: an image that cannot be decoded, or a worker that ended.
        """
        own = (part._replace(indices=self.chosen[part.indices]) for part in plan)
        for scenes in self.workers.fetch(own):
            yield [_on_device(scene, self.device) for scene in scenes]

    def close(self) -> None:
        """Ends the workers."""
        self.workers.close()


def _on_device(scene: Scene, device: torch.device) -> Scene:
    """A scene, on its way to a device."""
    target = {name: part.to(device, non_blocking=True) for name, part in scene.target.items()}
    return Scene(scene.image.to(device, non_blocking=True), target)


def evaluated_scenes(
    annotations: Annotations, parts: Sequence[Tensor], device: torch.device, workers: int
) -> Generator[list[Scene]]:
    """Images of a split as they are, in these parts.

    Raises:
        FailedError: an image that cannot be decoded, or a worker that ended.
    """
    dataset = SceneDataset(dataclasses.replace(annotations, shapes=None), None)
    pool: Workers[Part, list[Scene]] = Workers(dataset, workers, pinned=device.type == "cuda")
    try:
        for scenes in pool.fetch(Part((0, 0), 0, indices, 0, len(indices)) for indices in parts):
            yield [_on_device(scene, device) for scene in scenes]
    finally:
        pool.close()
