"""Where in a network built elsewhere blocks of one shape follow each other."""

import itertools
from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

WEIGHTED = (nn.Conv2d, nn.Linear)


class Repeat(NamedTuple):
    """A module that does nothing but call its children one after another, each giving the same shape.

    Args:
        path: the module's name in the network.
        names: its children's, in order.
        shape: of every child's output for one image.
        keeps_shape: for each child, whether its output has its input's shape.
    """

    path: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    keeps_shape: tuple[bool, ...]


class Call(NamedTuple):
    """A module's first argument and what it returned."""

    given: Any
    returned: Any


Calls = dict[nn.Module, list[Call]]


def find_repeats(model: nn.Module, calls: Calls) -> list[Repeat]:
    """The outermost modules whose children repeat a shape in a pass that was watched, in the order they are named.

    A child counts as a block if it is made of two convolutions or linear layers at least.
    """
    found: list[Repeat] = []
    for path, module in model.named_modules():
        within = any(path.startswith(f"{repeat.path}.") for repeat in found)
        if path and not within and (repeat := as_repeat(path, module, calls)):
            found.append(repeat)
    return found


def watch(model: nn.Module, image: Tensor) -> Calls:
    """One pass in evaluation mode, with every module's calls written down."""
    calls: Calls = defaultdict(list)

    def write_down(module: nn.Module, given: tuple[Any, ...], returned: Any) -> None:
        calls[module].append(Call(given[0] if given else None, returned))

    handles = [module.register_forward_hook(write_down) for module in model.modules()]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def as_repeat(path: str, module: nn.Module, calls: Calls) -> Repeat | None:
    """The module as blocks of one shape that follow each other, if that is what it is."""
    children = dict(module.named_children())
    made = [calls[child] for child in children.values()]
    if len(made) < 2 or any(len(of_child) != 1 for of_child in made):
        return None
    steps = [of_child[0] for of_child in made]
    whole = calls[module] or [Call(steps[0].given, steps[-1].returned)]
    if not (follow_each_other(steps) and len(whole) == 1):
        return None
    if whole[0].given is not steps[0].given or whole[0].returned is not steps[-1].returned:
        return None
    if not all(weighted_layers(child) >= 2 for child in children.values()):
        return None
    keeps_shape = tuple(step.given.shape == step.returned.shape for step in steps)
    return Repeat(path, tuple(children), tuple(steps[0].returned.shape), keeps_shape)


def follow_each_other(steps: list[Call]) -> bool:
    """Whether each step is given what the one before returned, and all return tensors of one shape."""
    if not all(isinstance(step.given, Tensor) and isinstance(step.returned, Tensor) for step in steps):
        return False
    linked = all(after.given is before.returned for before, after in itertools.pairwise(steps))
    return linked and len({step.returned.shape for step in steps}) == 1


def weighted_layers(module: nn.Module) -> int:
    """Convolutions and linear layers within."""
    return sum(isinstance(part, WEIGHTED) for part in module.modules())
