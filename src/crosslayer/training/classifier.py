"""A trained classifier in Python: pictures in, classes out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from crosslayer.data.augment import normalise
from crosslayer.data.decode import View
from crosslayer.data.pictures import open_picture
from crosslayer.errors import FailedError, UsageError, reason
from crosslayer.models.sharing import from_pretrained, save_pretrained
from crosslayer.training.launch import choose_device
from crosslayer.training.run_directory import RunDirectory
from crosslayer.training.trained import Which, likeliest, load_trained

Picture = Image.Image | str | Path | np.ndarray | Tensor
"""A picture, a file, or height × width × 3 (or height × width) bytes; a tensor is 3 × height × width bytes."""


class Prediction(NamedTuple):
    """What a classifier sees in one picture."""

    class_name: str
    probability: float
    ranking: tuple[tuple[str, float], ...]
    """The likeliest classes and their probabilities, falling."""


@final
class Transform:
    """From a picture to what the network takes of it: 3 × size × size, normalised, float32."""

    def __init__(self, view: View, mean: Sequence[float], std: Sequence[float]) -> None:
        self.view, self.mean, self.std = view, tuple(mean), tuple(std)

    def __call__(self, picture: Picture) -> Tensor:
        """One picture.

        Raises:
            ValueError: an array that is no picture.
            UsageError: a file that is not there.
            FailedError: a file that is no picture.
        """
        pixels = torch.from_numpy(self.pixels(picture).copy()).permute(2, 0, 1)
        return normalise(pixels[None], self.mean, self.std)[0]

    def pixels(self, picture: Picture) -> np.ndarray:
        """What the network looks at of it, not yet normalised: size × size × 3 bytes; raises what a call does."""
        if isinstance(picture, str | Path):
            if not Path(picture).is_file():
                raise UsageError(f"there is no image file {picture}")
            try:
                with open_picture(str(picture)) as image:
                    return self.view.of(image)
            except Exception as error:  # Pillow raises errors of many kinds
                raise FailedError(f"cannot decode {picture}: {reason(error)}") from error
        return self.view.of(picture if isinstance(picture, Image.Image) else _as_picture(picture))


def _as_picture(array: np.ndarray | Tensor) -> Image.Image:
    """An array of bytes as a picture."""
    values = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    if isinstance(array, Tensor) and values.ndim == 3:
        values = values.transpose(1, 2, 0)
    if (
        values.dtype != np.uint8
        or values.size == 0
        or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3))
    ):
        raise ValueError(
            f"an array of shape {tuple(array.shape)} and type {values.dtype} is no picture; give bytes (uint8), "
            "height × width × 3, or a tensor 3 × height × width"
        )
    return Image.fromarray(np.ascontiguousarray(values))


@final
class Classifier(nn.Module):
    """A network with all that it takes to use it.

    Args:
        network: in evaluation mode.
        transform: from a picture to the network's input.
        class_names: in the order of the network's outputs.
        summary: of the run it comes from.
    """

    def __init__(
        self,
        network: nn.Module,
        transform: Transform,
        class_names: Sequence[str],
        summary: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.transform, self.class_names = network, transform, tuple(class_names)
        self.summary = summary
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of transformed images: batch × 3 × height × width in, batch × classes out."""
        return self.network(images)

    @torch.inference_mode()
    def predict(self, images: Picture | Sequence[Picture], *, top: int = 5, batch_size: int = 32) -> list[Prediction]:
        """What the network sees, one prediction for every picture, in order.

        Args:
            images: pictures, files or arrays of bytes; one alone will do.
            top: how many classes are ranked.
            batch_size: pictures at once.
        """
        if top < 1 or batch_size < 1:
            raise ValueError(f"top is {top} and batch_size {batch_size}; both must be at least 1")
        alone = isinstance(images, Image.Image | str | Path) or (
            isinstance(images, np.ndarray | Tensor) and images.ndim < 4
        )
        pictures: list[Any] = [images] if alone else list(images)  # pyright: ignore[reportArgumentType]  # not alone
        where = next(self.network.parameters())
        training = self.training
        self.eval()
        predictions: list[Prediction] = []
        for first in range(0, len(pictures), batch_size):
            batch = torch.stack([self.transform(picture) for picture in pictures[first : first + batch_size]])
            for ranking in likeliest(self(batch.to(where.device, where.dtype)), self.class_names, top):
                predictions.append(Prediction(*ranking[0], tuple(ranking)))
        self.train(training)
        return predictions

    def save_pretrained(self, folder: str | Path, **facts: Any) -> None:
        """`crosslayer.save_pretrained` of the network, with its class names, normalisation and run."""
        save_pretrained(self.network, folder, **{**self.facts(), **facts})

    def facts(self) -> dict[str, Any]:
        """What `save_pretrained` is told."""
        view, transform = self.transform.view, self.transform
        return {
            "class_names": self.class_names,
            "mean": transform.mean,
            "std": transform.std,
            "image_size": view.size,
            "crop": view.crop,
            "interpolation": view.interpolation,
            "summary": self.summary,
        }


def load(source: str | Path, *, checkpoint: Which = "last", device: str = "cpu") -> Classifier:
    """The classifier of a run, of a folder that `save_pretrained` wrote, or of OWNER/NAME on the Hugging Face Hub.

    Args:
        source: run directory, folder or repository.
        checkpoint: of a run, the `last` or the `best`.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        UsageError: there is no such run, it has no checkpoint yet, or it is a detector's.
        FailedError: a damaged checkpoint, or a download that failed.
        ValueError: a saved network that is none of crosslayer's, or without class names.
    """
    run = RunDirectory(source)
    if run.holds_run():
        recipe = run.read()[1]
        if recipe.task != "classification":
            raise UsageError(f"{source} is a run of {recipe.task}; load, push and demo are for classifiers")
        trained = load_trained(source, checkpoint, device, fused=False)
        facts = trained.dataset_info
        transform = Transform(trained.view(), facts.mean, facts.std)
        return Classifier(trained.model, transform, facts.classes, run.summary())
    network = from_pretrained(source)
    config: Any = vars(network)["pretrained_cfg"]
    channels, _, width = config["input_size"]
    if not config["label_names"] or channels != 3:
        raise ValueError(
            f"{source} is no classifier of pictures by name: it has {channels} channels, or no label_names"
        )
    view = View(width, config["crop_pct"], config["interpolation"])
    transform = Transform(view, config["mean"], config["std"])
    return Classifier(network.to(choose_device(device)), transform, config["label_names"])


def title_of(source: str | Path) -> str:
    """What a run's network is made of; of what is no run, its name."""
    run = RunDirectory(source)
    if not run.holds_run():
        return Path(source).name
    recipe = run.read()[1]
    return f"{recipe.backbone} with {recipe.mechanism}"
