"""Global average pooling, and the pools that are known already."""

from typing import NamedTuple

from crosslayer.ops.fused import pooling as fused
from crosslayer.ops.selection import takes_fused
from crosslayer.ops.shapes import Map, Vector


def global_average_pool(x: Map) -> Vector:
    """GAP: the mean of every channel over its map.

    Raises:
        ValueError: fused was asked for where it cannot run.
    """
    return fused.global_average_pool(x) if takes_fused("global_average_pool", x) else x.mean((2, 3))


class KnownPool(NamedTuple):
    """A map and its pool, if it is known."""

    of: Map | None = None
    pool: Vector | None = None

    def look_up(self, x: Map) -> Vector:
        """GAP(x): what is known where x is this very map, else a pass over it."""
        return global_average_pool(x) if self.pool is None or x is not self.of else self.pool
