"""A map whose pool is known."""

from typing import NamedTuple

import torch
from torch import Tensor

from crosslayer.ops.shapes import Map, Vector


class PooledMap(NamedTuple):
    """A map and the numbers of its pool, which hold as long as nobody changes the map in place."""

    map: Map
    pool: Vector | None
    version: int | None

    @classmethod
    def of(cls, x: Map, pool: Vector | None) -> "PooledMap":
        """A map as it is now."""
        return cls(x, pool, _version(x))

    def pool_of(self, x: Map, unwatched: bool) -> Vector | None:
        """The pool's numbers if x is that very map, unchanged.

        Where nobody counts changes it is taken for unchanged if it is `unwatched`: if no hook could have changed it.
        """
        if x is not self.map:
            return None
        unchanged = unwatched if self.version is None else _version(x) == self.version
        return self.pool if unchanged else None


def _version(x: Tensor) -> int | None:
    """How often a tensor has been changed in place; in graphs that are traced and in inference mode nobody counts."""
    return None if torch.compiler.is_compiling() or x.is_inference() else x._version
