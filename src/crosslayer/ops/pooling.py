"""Global average pooling."""

from crosslayer.ops.shapes import Map, Vector


def global_average_pool(x: Map) -> Vector:
    """GAP: the mean of every channel over its map."""
    return x.mean((2, 3))
