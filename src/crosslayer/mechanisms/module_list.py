from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class TypedModuleList(nn.ModuleList, Generic[ModuleT]):
    """A ModuleList whose members' type is known to the type checker."""

    if TYPE_CHECKING:

        def __getitem__(self, index: int) -> ModuleT: ...  # pyright: ignore[reportIncompatibleMethodOverride]
        def __iter__(self) -> Iterator[ModuleT]: ...
