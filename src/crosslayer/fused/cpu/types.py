"""Tensors and sizes as the C functions take them."""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from crosslayer.fused.cpu.compiler import library
from crosslayer.fused.layout import channels_last, new_map

NAMES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}
"""Of storage types that there are functions for."""


class Size(ctypes.Structure):
    """A map's sizes."""

    _fields_ = (
        ("batch", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("channels", ctypes.c_int64),
    )


def size_of(x: Tensor) -> Size:
    """Of a batch × channels × height × width map."""
    batch, channels, height, width = x.shape
    return Size(batch, height, width, channels)


def pointer(x: Tensor | None) -> int | None:
    """Where a tensor lies, as fields and arrays of pointers take it; none where there is none."""
    return None if x is None else x.data_ptr()


def address(x: Tensor | None) -> ctypes.c_void_p:
    """Of a tensor that lies as the function expects, as an argument of its own; null where there is none."""
    return ctypes.c_void_p(pointer(x))


@functools.cache
def _pointers(count: int) -> type[ctypes.Structure]:
    """A structure of so many addresses."""
    fields = [(f"pointer{i}", ctypes.c_void_p) for i in range(count)]
    return type(f"Pointers{count}", (ctypes.Structure,), {"_fields_": fields})


def addresses(*tensors: Tensor | None) -> ctypes.Structure:
    """Of several tensors, as one argument: a structure of pointers."""
    return _pointers(len(tensors))(*map(pointer, tensors))


def call(source: str, function: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Calls the function for a storage type with as many threads as PyTorch has."""
    threads = ctypes.c_int(torch.get_num_threads())
    getattr(library(source), f"{function}_{NAMES[dtype]}")(*arguments, threads)


def lying(x: Tensor) -> Tensor:
    """A map with its channels side by side; copies only one that lies otherwise."""
    return x.contiguous(memory_format=torch.channels_last)


def lying_as(x: Tensor, made: Tensor) -> Tensor:
    """A map just made, laid out as x."""
    return made if channels_last(x) else new_map(x).copy_(made)
