"""Networks with a mechanism in every stage: by name, or from an authors' checkpoint."""

from crosslayer.models import timm_registry  # noqa: F401  # its names are known from here on
from crosslayer.models.factory import create_model, list_backbones, list_mechanisms
from crosslayer.models.graft import graft, param_groups
from crosslayer.models.released import load_released
from crosslayer.models.resnet import ResNet

__all__ = [
    "ResNet",
    "create_model",
    "graft",
    "list_backbones",
    "list_mechanisms",
    "load_released",
    "param_groups",
]
