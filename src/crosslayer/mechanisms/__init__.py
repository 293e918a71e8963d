"""One mechanism = one file here and nothing elsewhere. Every file of this folder is found and imported."""

import importlib
import pkgutil

from crosslayer.mechanisms.interface import (
    Mechanism,
    NoOptions,
    StageShape,
    configure,
    lookup,
    register,
    registered,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Mechanism", "NoOptions", "StageShape", "configure", "lookup", "register", "registered"]
