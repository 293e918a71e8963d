"""What the page shows of a picture."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from crosslayer.errors import UsageError
from crosslayer.reports.attention import attention_figure, attention_matrices
from crosslayer.reports.explain import explain, overlaid
from crosslayer.training.classifier import Classifier, Picture

CLASSES = 5
"""The likeliest ones, that are shown."""
_SIDE = 384
"""Pixels that an overlay has at least: a classifier of small images looks at fewer."""


class Seen(NamedTuple):
    """What a classifier makes of a picture; parts that its network has not are None."""

    ranking: dict[str, float]
    overlay: np.ndarray | None
    attention: Figure | None


def look(classifier: Classifier, picture: Picture) -> Seen:
    """Everything the page shows of one picture.

    Raises:
        UsageError: a file that is not there.
        FailedError: a file that is no picture.
    """
    (prediction,) = classifier.predict(picture, top=CLASSES)
    image = classifier.transform(picture)[None].to(next(classifier.parameters()).device)
    return Seen(dict(prediction.ranking), _overlay(classifier, picture, image), _attention(classifier, image))


def _overlay(classifier: Classifier, picture: Picture, image: Tensor) -> np.ndarray | None:
    try:
        cam = explain(classifier.network, image).cam
    except UsageError:  # no maps, or no attention over layers
        return None
    pixels = Image.fromarray(classifier.transform.pixels(picture))
    scale = -(-_SIDE // min(pixels.size))
    large = np.asarray(pixels.resize((pixels.width * scale, pixels.height * scale), Image.Resampling.BICUBIC))
    return (255 * overlaid(large, cam)).round().astype(np.uint8)


def _attention(classifier: Classifier, image: Tensor) -> Figure | None:
    try:
        return attention_figure([("", attention_matrices(classifier.network, [image]))])
    except UsageError:  # no attention over layers
        return None
