"""Global average pooling, and the pools that are known already."""

from typing import NamedTuple

from crosslayer.ops.fused import pooling as fused
from crosslayer.ops.fused.residual_output import Ending
from crosslayer.ops.selection import takes_fused
from crosslayer.ops.shapes import Map, Vector


def global_average_pool(x: Map) -> Vector:
    """GAP: the mean of every channel over its map.

    Raises:
        ValueError: fused was asked for where it cannot run.
    """
    return fused.global_average_pool(x) if takes_fused("global_average_pool", x) else x.mean((2, 3))


class KnownPool(NamedTuple):
    """A map, its pool where that came with it, and how it was made where that is known."""

    of: Map
    pool: Vector | None = None
    ending: Ending | None = None


def pool_of(x: Map, known: KnownPool | None) -> Vector:
    """GAP(x): what is known where x is that very map, else a pass over it."""
    if known is None or known.pool is None or x is not known.of:
        return global_average_pool(x)
    return known.pool
