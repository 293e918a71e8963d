"""TorchScript, for libtorch and older hosts; the metadata are the extra file metadata.json."""

import json
import warnings
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.export import ExportedProgram

from crosslayer.export.formats import Format, Run


@final
class TorchScript(Format):
    """A trace of the program."""

    suffix = ".pt"

    @staticmethod
    def write(program: ExportedProgram, images: Tensor, metadata: dict[str, str], folder: Path, name: str) -> None:
        """One file."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is old is why somebody asks for it
            module = program.module(check_guards=False)
            module._forward_pre_hooks.clear()  # they compare images with symbolic sizes, which cannot be traced
            traced: Any = torch.jit.trace(module, images)
            torch.jit.save(traced, str(folder / name), _extra_files={"metadata.json": json.dumps(metadata)})

    @staticmethod
    def load(path: Path, threads: int | None = None) -> Run:
        """In PyTorch."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            run: Any = torch.jit.load(str(path))
        return run


FORMAT = TorchScript
