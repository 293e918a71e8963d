"""timm learns this package's names (`timm.create_model("resnet50_dla_l")`) in either order of imports.

timm takes seconds to import, so it is not imported for the names' sake: where it has been, they are registered at
once, and otherwise as soon as it is.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import final

_NAMES = "crosslayer.models.timm_registry"
_TIMM = "timm.models"


def register_names() -> None:
    """Registers the names, now or when timm has been imported."""
    if _is_imported(sys.modules.get(_TIMM)):
        importlib.import_module(_NAMES)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _is_imported(module: ModuleType | None) -> bool:
    return module is not None and not getattr(module.__spec__, "_initializing", False)


@final
class _Finder(importlib.abc.MetaPathFinder):
    """Finds `timm.models` as it is found without it, and has the names registered after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec, whose loader goes on to the names; nothing for any other module."""
        if fullname != _TIMM:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, str(spec.loader.path))
        return spec


@final
class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module, then the names."""

    def exec_module(self, module: ModuleType) -> None:
        """The module's own code, then the names."""
        super().exec_module(module)
        importlib.import_module(_NAMES)
