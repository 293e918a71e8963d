"""Parameters in 10^6 and multiply-accumulates in 10^9, whole and per stage."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from crosslayer.models.resnet import ResNet


@dataclasses.dataclass(frozen=True)
class Part:
    """Size and cost of one part of a network for one image."""

    name: str
    parameters: int
    macs: int


@dataclasses.dataclass(frozen=True)
class Profile:
    """Size and cost of a network for one image of image_size × image_size pixels."""

    image_size: int
    total: Part
    parts: tuple[Part, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with units in the names."""
        return {"image_size": self.image_size} | row(self.total) | {"parts": [row(part) for part in self.parts]}


def row(part: Part) -> dict[str, Any]:
    """One part as plain values."""
    return {
        "name": part.name,
        "parameters": part.parameters,
        "parameters_m": part.parameters / 1e6,
        "macs": part.macs,
        "macs_g": part.macs / 1e9,
    }


def profile_model(model: nn.Module, image_size: int = 32) -> Profile:
    """Counts parameters and, with PyTorch's own counter, multiply-accumulates in convolutions and matrix products.

    The counter counts two operations for each multiply-accumulate; pooling, gates, normalisation and other
    arithmetic per element are left out, as in the papers. A network that is not built of this project's stages (a
    grafted one) is counted as a whole.
    """
    with _at_rest(model):
        image = _image_like(model, image_size)
        total = _network_total(model, image)
        parts = _stage_parts(model, image, total) if isinstance(model, ResNet) else ()
    return Profile(image_size, total, parts)


def total_of(model: nn.Module, image_size: int) -> Part:
    """The whole network's line of `profile_model`, at half the work."""
    with _at_rest(model):
        return _network_total(model, _image_like(model, image_size))


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, without gradients of any parameter; afterwards as it was.

    `no_grad` alone does not do: a view of a parameter made under it asks for a gradient and has no history, which
    PyTorch's counter cannot bear.
    """
    training, learning = model.training, [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        with torch.no_grad():
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        model.train(training)


def _image_like(model: nn.Module, image_size: int) -> torch.Tensor:
    """One image on the network's device, in its precision."""
    where = next(model.parameters())
    return torch.zeros(1, 3, image_size, image_size, device=where.device, dtype=where.dtype)


def _network_total(model: nn.Module, image: torch.Tensor) -> Part:
    """Size and cost of the whole network."""
    with (whole := FlopCounterMode(display=False)):
        model(image)
    return Part("network", _count_parameters(model), whole.get_total_flops() // 2)


def _stage_parts(model: ResNet, image: torch.Tensor, total: Part) -> tuple[Part, ...]:
    """Stem, every stage, and what is left of the total for the classifier."""
    with (stem := FlopCounterMode(display=False)):
        x, carry = model.forward_stem(image), None
    parts = [Part("stem", _count_parameters(model.conv1, model.bn1), stem.get_total_flops() // 2)]
    for index, stage in enumerate(model.stages):
        with (cost := FlopCounterMode(display=False)):
            depth = stage.begin(x, carry)
            x = stage(x, depth)
            carry = depth.finish()
        parts.append(Part(f"stage {index + 1}", _count_parameters(stage), cost.get_total_flops() // 2))
    rest = total.macs - sum(part.macs for part in parts)
    return (*parts, Part("classifier", _count_parameters(model.fc), rest))


def _count_parameters(*modules: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
