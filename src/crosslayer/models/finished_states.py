"""What mechanisms remember at the end of their stages, for whoever looks on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn

from crosslayer.mechanisms import Mechanism


class Finished(NamedTuple):
    """One stage that ended."""

    mechanism: Mechanism[Any]
    state: Any


@contextmanager
def finished_states(model: nn.Module) -> Iterator[list[Finished]]:
    """A list that grows by one entry whenever a stage of the network ends, in order; empty it between passes."""
    finished: list[Finished] = []
    mechanisms = [module for module in model.modules() if isinstance(module, Mechanism)]
    try:
        for mechanism in mechanisms:
            mechanism.finish = recording(mechanism, finished)
        yield finished
    finally:
        for mechanism in mechanisms:
            vars(mechanism).pop("finish", None)


def recording(mechanism: Mechanism[Any], finished: list[Finished]) -> Any:
    """The mechanism's `finish`, which also writes down what it is given."""
    finish = mechanism.finish

    def write_down(state: Any) -> Any:
        finished.append(Finished(mechanism, state))
        return finish(state)

    return write_down
