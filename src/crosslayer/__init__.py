"""crosslayer: layer attention for PyTorch vision networks."""

from crosslayer.models import create_model, list_backbones, list_mechanisms, load_released

__version__ = "0.1.0"
__all__ = ["create_model", "list_backbones", "list_mechanisms", "load_released"]
