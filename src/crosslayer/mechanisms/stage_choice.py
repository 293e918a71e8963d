"""Which stages a mechanism acts in, where its paper does not use it in all of them."""

from crosslayer.mechanisms.interface import StageShape


def acts_in(shape: StageShape, stages: tuple[int, ...]) -> bool:
    """Whether the stage is one of `stages`; where a network ends before the first of them, whether it is its last."""
    return shape.index in stages or (shape.last and shape.index < min(stages))


def check_stages(stages: tuple[int, ...]) -> None:
    """Raises ValueError for no stage at all, or one that there cannot be."""
    if not stages or min(stages) < 0:
        raise ValueError(f"stages are {stages}; name at least one, counted from 0")
