"""torch.export's own archive, for `torch.export.load`; the metadata are its extra file metadata.json."""

import json
import warnings
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.export import ExportedProgram

from crosslayer.export.formats import Format, Run


@final
class Pt2(Format):
    """An ExportedProgram."""

    suffix = ".pt2"

    @staticmethod
    def write(program: ExportedProgram, images: Tensor, metadata: dict[str, str], folder: Path, name: str) -> None:
        """One file."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No complete tensor")  # of weights that are slices of one another
            torch.export.save(program, folder / name, extra_files={"metadata.json": json.dumps(metadata)})

    @staticmethod
    def load(path: Path, threads: int | None = None) -> Run:
        """In PyTorch."""
        run: Any = torch.export.load(path).module()
        return run


FORMAT = Pt2
