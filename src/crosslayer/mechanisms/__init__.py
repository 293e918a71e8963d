"""One mechanism = one file here and nothing elsewhere. Every file of this folder is found by its name."""

from crosslayer.mechanisms.interface import (
    Mechanism,
    NetworkMechanism,
    NetworkShape,
    PositionwiseMechanism,
    StageShape,
)
from crosslayer.mechanisms.registry import NoOptions, configure, lookup, register, registered

__all__ = [
    "Mechanism",
    "NetworkMechanism",
    "NetworkShape",
    "NoOptions",
    "PositionwiseMechanism",
    "StageShape",
    "configure",
    "lookup",
    "register",
    "registered",
]
