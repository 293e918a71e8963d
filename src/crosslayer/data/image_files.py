from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crosslayer.data.decode import Pixels, View, decode_batch
from crosslayer.data.split import FileSplit
from crosslayer.errors import UsageError


def load_image_files(paths: Sequence[str], view: View) -> Pixels:
    """Image files as the network saw its training images, before normalisation.

    Raises:
        UsageError: a file that is not there.
        FailedError: a file that is no image.
    """
    for path in paths:
        if not Path(path).is_file():
            raise UsageError(f"there is no image file {path}")
    files = FileSplit([Path(path) for path in paths], np.zeros(len(paths)), fingerprint="")
    return decode_batch(files, range(len(paths)), view)
