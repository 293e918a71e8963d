"""Networks with a mechanism in every stage: by name, or from an authors' checkpoint."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosslayer.models.factory import list_backbones, list_mechanisms
    from crosslayer.models.grafting import graft, param_groups
    from crosslayer.models.released import load_released
    from crosslayer.models.resnet import ResNet
    from crosslayer.models.timm_registry import create_model

__all__ = [
    "ResNet",
    "create_model",
    "graft",
    "list_backbones",
    "list_mechanisms",
    "load_released",
    "param_groups",
]
_HOMES = dict.fromkeys(__all__, "factory") | {
    "ResNet": "resnet",
    "create_model": "timm_registry",
    "graft": "grafting",
    "load_released": "released",
    "param_groups": "grafting",
}


def __getattr__(name: str) -> Any:
    """A public name, brought when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'crosslayer.models' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"crosslayer.models.{_HOMES[name]}"), name)
