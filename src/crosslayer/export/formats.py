"""The formats a program can be written in, each a file of its own beside this one, found by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor
from torch.export import ExportedProgram

from crosslayer.errors import UsageError

FormatName = Literal["onnx", "pt2", "aoti", "openvino", "torchscript"]
Run = Callable[[Tensor], Tensor]
"""Images to outputs, both float32 on the CPU."""


class Format(ABC):
    """One format."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Packages beyond torch."""
    suffix: ClassVar[str]
    """What its files' names end with."""
    reduces: ClassVar[bool] = False
    """Whether it can be written in int8."""

    @classmethod
    def missing(cls) -> str:
        """What it needs and is not installed, in words; nothing where all is."""
        return " and ".join(package for package in cls.needs if find_spec(package) is None)

    @staticmethod
    @abstractmethod
    def write(program: ExportedProgram, images: Tensor, metadata: dict[str, str], folder: Path, name: str) -> None:
        """Writes a program into an empty folder, under this name or, with what goes with it, names like it."""

    @staticmethod
    @abstractmethod
    def load(path: Path, threads: int | None = None) -> Run:
        """A written program, ready to run, with that many threads where the runtime has its own."""

    @staticmethod
    def reduce(path: Path, images: Tensor) -> None:
        """Turns a written program into one of int8, calibrated on images."""
        raise NotImplementedError


def find_kind(name: FormatName) -> type[Format]:
    """The format of a name, whether it can be written here or not."""
    return import_module(f"crosslayer.export.{name}_file").FORMAT


def find_format(name: FormatName, *, int8: bool) -> type[Format]:
    """The format of a name.

    Raises:
        UsageError: a package that it needs is not installed, or it has no int8.
    """
    kind = find_kind(name)
    if int8 and not kind.reduces:
        raise UsageError(f"--int8 is for --format onnx; {name} is written in float32 only")
    if missing := kind.missing():
        raise UsageError(f"--format {name} needs {missing}: pip install 'crosslayer[export]'")
    return kind
