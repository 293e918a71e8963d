"""A program compiled ahead of time for this kind of processor, for `torch._inductor.aoti_load_package`."""

from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.export import ExportedProgram

from crosslayer.errors import FailedError, reason
from crosslayer.export.formats import Format, Run


@final
class Aoti(Format):
    """AOTInductor's package; the metadata are its own."""

    suffix = ".pt2"

    @staticmethod
    def write(program: ExportedProgram, images: Tensor, metadata: dict[str, str], folder: Path, name: str) -> None:
        """One file."""
        from torch._inductor.exc import InductorError, InvalidCxxCompiler

        configs = {"aot_inductor.metadata": metadata}
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(folder / name), inductor_configs=configs)
        except InvalidCxxCompiler as error:
            raise FailedError("--format aoti needs a C++ compiler: install g++ or clang++") from error
        except InductorError as error:
            raise FailedError(f"the program cannot be compiled: {reason(error)}") from error

    @staticmethod
    def load(path: Path, threads: int | None = None) -> Run:
        """As a C++ program would."""
        run: Any = torch._inductor.aoti_load_package(str(path))
        return run


FORMAT = Aoti
