"""A network written as a program, once its outputs are the network's."""

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crosslayer.errors import FailedError
from crosslayer.export.formats import Format, Run
from crosslayer.export.lean import lean_program
from crosslayer.files import cannot_write, whole_file


class Written(NamedTuple):
    """What was written.

    Args:
        files: in the order they were put in place; the last is the one to open.
        difference: the largest difference of an output from the network's, over the largest output.
    """

    files: tuple[Path, ...]
    difference: float


def write_program(
    model: nn.Module,
    images: Tensor,
    metadata: dict[str, str],
    kind: type[Format],
    path: Path,
    *,
    tolerance: float,
    dynamic: bool = False,
    int8: bool = False,
) -> Written:
    """Writes a network's program, whole or not at all, once it has given the network's outputs on images.

    Args:
        model: in evaluation mode, in float32 on the CPU.
        images: normalised, batch × channels × height × width; the program is run on them, one by one unless dynamic.
        metadata: class names, normalisation and the like, as text.
        kind: the format.
        path: the file to write.
        tolerance: largest difference from the network's outputs, over the largest of these.
        dynamic: the program takes any number of images; else one.
        int8: calibrate on the images, and compute in int8.

    Raises:
        FailedError: the outputs differ by more, or the files cannot be written.
    """
    program = lean_program(model, images[:2] if dynamic else images[:1], dynamic=dynamic)
    try:
        with tempfile.TemporaryDirectory(prefix="crosslayer-export-") as folder:
            made = Path(folder) / f"program{kind.suffix}"  # a runtime may not open a file of any other name
            kind.write(program, images[:2] if dynamic else images[:1], metadata, made.parent, made.name)
            if int8:
                kind.reduce(made, images)
            difference = _difference(model, kind.load(made), images, dynamic=dynamic)
            if not difference <= tolerance:
                raise FailedError(
                    f"the program's outputs differ from the network's by {difference:.2g} of the largest, more than "
                    f"--tolerance {tolerance:g}; nothing was written"
                )
            return Written(_put_in_place(made, path), difference)
    except OSError as error:
        raise cannot_write(path, error) from error


@torch.no_grad()
def _difference(model: nn.Module, run: Run, images: Tensor, *, dynamic: bool) -> float:
    """The largest difference of the outputs, over the network's largest output; not a number where one is not."""
    ours = model(images)
    batches = [images] if dynamic else images.split(1)
    theirs = torch.cat([run(batch.contiguous()) for batch in batches])
    return float((theirs - ours).abs().max() / ours.abs().max())


def _put_in_place(made: Path, path: Path) -> tuple[Path, ...]:
    """Copies a written program to where it belongs, the file that is opened last."""
    others = sorted(one for one in made.parent.iterdir() if one != made)
    places: list[Path] = []
    for one in (*others, made):
        places.append(path.with_suffix(one.suffix))
        with one.open("rb") as source, whole_file(places[-1]) as file:
            shutil.copyfileobj(source, file)
    return tuple(places)
