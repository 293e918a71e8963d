"""The plain network: every hook is identity."""

from typing import final

from crosslayer.mechanisms.interface import Mechanism
from crosslayer.mechanisms.registry import register


@final
class NoMechanism(Mechanism[None]):
    """No attention: the backbone as it is."""


register("none", NoMechanism)
