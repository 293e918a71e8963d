"""A detector's parameters, in groups that each have a rate."""

from typing import Any

from torch import nn

from crosslayer.detection.networks import NEW


def groups_of_detector(model: nn.Module) -> list[dict[str, Any]]:
    """What learns, in two groups: `backbone`, and `graft` for mechanism, pyramid and heads."""
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    pretrained = {
        name for name in learning if name.startswith("backbone.body.") and not any(part in name for part in NEW)
    }
    return [
        {"params": [learning[name] for name in learning if (name in pretrained) == mine], "name": group}
        for group, mine in (("backbone", True), ("graft", False))
    ]
