from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crosslayer.console import errors, plain
from crosslayer.data.decode import Pixels, View, decode_batch
from crosslayer.data.pictures import picture_suffixes
from crosslayer.data.split import FileSplit
from crosslayer.data.walk import files_below
from crosslayer.errors import UsageError


def load_image_files(paths: Sequence[str], view: View) -> Pixels:
    """Image files as the network saw its training images, before normalisation.

    Raises:
        UsageError: a file that is not there.
        FailedError: a file that is no image.
    """
    for path in paths:
        if not Path(path).is_file():
            raise UsageError(f"there is no image file {plain(path)}")
    files = FileSplit([Path(path) for path in paths], np.zeros(len(paths)), fingerprint="")
    return decode_batch(files, range(len(paths)), view)


def image_paths(paths: Sequence[str]) -> list[str]:
    """The paths, with all pictures below it, in the order of their names, in place of a folder.

    Other files below a folder are counted on standard error.

    Raises:
        UsageError: a folder that cannot be read or has no picture.
    """
    return [found for path in paths for found in (_pictures_below(Path(path)) if Path(path).is_dir() else [path])]


def _pictures_below(folder: Path) -> list[str]:
    skipped: list[Path] = []
    files = sorted(files_below(folder, skipped))
    pictures = [str(file) for file in files if file.suffix.lower() in picture_suffixes()]
    if not pictures:
        raise UsageError(f"there is no image file below {plain(folder)}")
    if count := len(skipped) + len(files) - len(pictures):
        errors.print(f"{folder}: skipped {count:,} {'entry' if count == 1 else 'entries'} that are no images")
    return pictures
