"""Where in a network built elsewhere blocks of one shape follow each other."""

import itertools
from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crosslayer.models import block_calls
from crosslayer.models.layouts import Grid

WEIGHTED = (nn.Conv2d, nn.Linear)


class StageMatch(NamedTuple):
    """A module that does nothing but call its children one after another, each giving the same shape.

    Args:
        path: the module's name in the network.
        names: its children's, in order.
        shape: of every child's output for one image.
        keeps_shape: for each child, whether its output has its input's shape.
        told: the size of a map that all children are told beside the activation.
    """

    path: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    keeps_shape: tuple[bool, ...]
    told: Grid | None = None


class Call(NamedTuple):
    """The activations that a module was given and returned, all that it returned, and what size it was told."""

    given: Any
    returned: Any
    output: Any
    told: Grid | None = None


Calls = dict[nn.Module, list[Call]]


def match_stages(model: nn.Module, calls: Calls) -> list[StageMatch]:
    """The outermost modules whose children repeat a shape in a recorded pass, in the order they are named.

    A child counts as a block if it is made of two convolutions or linear layers at least.
    """
    found: list[StageMatch] = []
    for path, module in model.named_modules():
        within = any(path.startswith(f"{match.path}.") for match in found)
        if path and not within and (match := _as_stage(path, module, calls)):
            found.append(match)
    return found


def record_calls(model: nn.Module, image: Tensor) -> Calls:
    """One pass in evaluation mode, with every module's calls recorded."""
    calls: Calls = defaultdict(list)

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        given, told = block_calls.given(args, kwargs), block_calls.told_size(args, kwargs)
        calls[module].append(Call(given, block_calls.returned(out), out, told))

    handles = [module.register_forward_hook(record, with_kwargs=True) for module in model.modules()]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _as_stage(path: str, module: nn.Module, calls: Calls) -> StageMatch | None:
    """The module as blocks of one shape that follow each other, if that is what it is."""
    children = dict(module.named_children())
    made = [calls[child] for child in children.values()]
    if len(made) < 2 or any(len(of_child) != 1 for of_child in made):
        return None
    steps = [of_child[0] for of_child in made]
    whole = calls.get(module) or [steps[-1]._replace(given=steps[0].given)]
    if not (_follow_each_other(steps) and len(whole) == 1):
        return None
    if calls.get(module) and any(isinstance(step.output, tuple) for step in steps):
        return None  # what else its blocks return, the module itself made something of
    if whole[0].given is not steps[0].given or whole[0].returned is not steps[-1].returned:
        return None
    if not all(_weighted_layers(child) >= 2 for child in children.values()):
        return None
    keeps_shape = tuple(step.given.shape == step.returned.shape for step in steps)
    told = steps[0].told if len({step.told for step in steps}) == 1 else None
    return StageMatch(path, tuple(children), tuple(steps[0].returned.shape), keeps_shape, told)


def _follow_each_other(steps: list[Call]) -> bool:
    """Whether each step is given what the one before returned, and all return tensors of one shape."""
    if not all(isinstance(step.given, Tensor) and isinstance(step.returned, Tensor) for step in steps):
        return False
    linked = all(after.given is before.returned for before, after in itertools.pairwise(steps))
    return linked and len({step.returned.shape for step in steps}) == 1


def _weighted_layers(module: nn.Module) -> int:
    """Convolutions and linear layers within."""
    return sum(isinstance(part, WEIGHTED) for part in module.modules())


def first_pass(model: nn.Module) -> tuple[Tensor, Calls]:
    """Noise that the network takes for an image, and the calls of its modules in one pass of it.

    Raises:
        ValueError: it takes none of the sizes that it may be made for.
    """
    weights = next(model.parameters(), torch.empty(0))
    generator, reason = torch.Generator().manual_seed(0), ""
    for shape in _image_shapes(model):
        image = torch.rand(1, *shape, generator=generator).to(weights.device, weights.dtype)
        try:
            return image, record_calls(model, image)
        except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError) as error:
            # Whatever a network built elsewhere says to an image that is not of its size.
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            reason = reason or f"{type(model).__name__} takes no image of {'×'.join(map(str, shape))} ({said})"
    raise ValueError(reason)


def _image_shapes(model: nn.Module) -> list[tuple[int, int, int]]:
    """Channels, height and width of the images that the network may be made for, the likeliest first.

    What it was built with goes before what its weights were trained with. Neither need be told: the first convolution
    may stand behind a fixed transform (TResNet), and the patches may be of maps (Visformer).
    """
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if convolution is None:
        raise ValueError(f"nothing repeats in {type(model).__name__} that an image passes through: no convolution")
    known = (getattr(model, "pretrained_cfg", None) or {}).get("input_size") or (3, 224, 224)
    built = _built_size(model) or known
    shapes = [(channels, h, w) for channels in (convolution.in_channels, known[0]) for *_, h, w in (built, known)]
    return list(dict.fromkeys(shapes))


def _built_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width of the images that a module says it was built for."""
    for module in model.modules():
        for name in ("img_size", "image_size"):
            size = getattr(module, name, None)
            if isinstance(size, int) and size > 0:
                return size, size
            if isinstance(size, (tuple, list)) and len(size) == 2:
                return size[0], size[1]
    return None
