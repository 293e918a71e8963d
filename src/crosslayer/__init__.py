"""crosslayer: layer attention for PyTorch vision networks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosslayer.detection.detector import create_detector
    from crosslayer.fused import fuse, unfuse
    from crosslayer.models import create_model, graft, list_backbones, list_mechanisms, load_released, param_groups
    from crosslayer.models.sharing import from_pretrained, push_to_hub, save_pretrained
    from crosslayer.reports.explain import attention
    from crosslayer.training.classifier import load

__version__ = "0.1.0"
__all__ = [
    "attention",
    "create_detector",
    "create_model",
    "from_pretrained",
    "fuse",
    "graft",
    "list_backbones",
    "list_mechanisms",
    "load",
    "load_released",
    "param_groups",
    "push_to_hub",
    "save_pretrained",
    "unfuse",
]
_HOMES = dict.fromkeys(__all__, "crosslayer.models") | {
    "attention": "crosslayer.reports.explain",
    "create_detector": "crosslayer.detection.detector",
    "from_pretrained": "crosslayer.models.sharing",
    "fuse": "crosslayer.fused",
    "load": "crosslayer.training.classifier",
    "push_to_hub": "crosslayer.models.sharing",
    "save_pretrained": "crosslayer.models.sharing",
    "unfuse": "crosslayer.fused",
}


if not TYPE_CHECKING:  # a type checker is to find names that are not there

    def __getattr__(name: str) -> Any:
        """A public name, brought when it is first asked for."""
        if name not in _HOMES:
            raise AttributeError(f"module 'crosslayer' has no attribute {name!r}")
        import importlib

        try:
            home = importlib.import_module(_HOMES[name])
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] == "crosslayer":
                raise
            extra = "detection" if name == "create_detector" else "train"
            raise ImportError(f"crosslayer.{name} needs {error.name}: pip install 'crosslayer[{extra}]'") from error
        return getattr(home, name)


def _tell_timm() -> None:
    from crosslayer.timm_import import register_names

    register_names()


_tell_timm()
