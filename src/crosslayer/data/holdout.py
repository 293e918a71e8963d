"""A part of the training images held out, to validate on."""

from typing import final

import numpy as np
from PIL import Image

from crosslayer.data.split import Source, Split
from crosslayer.errors import UsageError


@final
class _Part(Split):
    """Some images of a split.

    Args:
        whole: the split.
        indices: of the images, rising.
        name: of the part, for its fingerprint.
    """

    def __init__(self, whole: Split, indices: np.ndarray, name: str) -> None:
        super().__init__(whole.labels[indices], f"{whole.fingerprint}-{name}")
        self.whole, self.indices = whole, indices

    def open(self, i: int) -> Image.Image:
        """Image i of the part."""
        return self.whole.open(int(self.indices[i]))

    def name(self, i: int) -> str:
        """As the whole calls it."""
        return self.whole.name(int(self.indices[i]))


def hold_out(source: Source, share: float) -> Source:
    """The data set with a share of every class's training images as what it is validated on.

    The images are the same whenever the data and the share are: no seed chooses them.

    Raises:
        UsageError: a share that leaves nothing to train or to validate on.
    """
    labels, rng = source.train.labels, np.random.default_rng(0)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        held[own[: round(share * len(own))]] = True
    if held.all() or not held.any():
        raise UsageError(
            f"--val-split {share} holds out {held.sum():,} of {len(labels):,} images; both parts must have some"
        )
    name = f"{share:g}".replace(".", "_")
    parts = [
        _Part(source.train, np.flatnonzero(keep), f"{part}{name}") for part, keep in (("but", ~held), ("held", held))
    ]
    return Source(parts[0], parts[1], source.classes)
