"""The method `save_pretrained` of this project's networks."""

from importlib import import_module
from pathlib import Path
from typing import Any

SHARING = "crosslayer.models.sharing"
"""Brought when something is saved: it builds networks, which know nothing of it."""


class SavePretrained:
    """A network that can be saved with all that rebuilds it."""

    def save_pretrained(self, folder: str | Path, **facts: Any) -> None:
        """Writes config.json, model.safetensors and README.md: `crosslayer.save_pretrained`, which see."""
        import_module(SHARING).save_pretrained(self, folder, **facts)
