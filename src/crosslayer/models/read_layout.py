"""How a network built elsewhere lays out its activations, read from its modules and from a recorded pass."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from crosslayer.models.layouts import ChannelsFirst, ChannelsLast, Grid, Layout, TokenRows
from crosslayer.models.match_stages import Calls, StageMatch


class Told(NamedTuple):
    """What whoever grafts says of tokens where a network does not.

    Args:
        grid: height and width of the map that they make.
        prefix: how many before them are no part of it.
    """

    grid: Grid | None = None
    prefix: int | None = None

    def check(self) -> None:
        """Raises ValueError for what is no size or no number of tokens."""
        if self.grid is not None and not (len(self.grid) == 2 and all(_is_count(side) and side for side in self.grid)):
            raise ValueError(f"grid is {self.grid!r}; it is the height and width of a map, in tokens")
        if self.prefix is not None and not _is_count(self.prefix):
            raise ValueError(f"prefix_tokens is {self.prefix!r}; it is the number of tokens before the map's")


class StageLayout(NamedTuple):
    """How a stage's activations are laid out.

    Args:
        layout: of them all.
        channels: of each.
        told: whether every block is told the map's size.
        patches: the convolution that made the tokens' map, if that is where its size is known from.
    """

    layout: Layout
    channels: int
    told: bool = False
    patches: nn.Module | None = None


def read_layout(model: nn.Module, match: StageMatch, calls: Calls, told: Told) -> StageLayout:
    """How the activations of a stage are laid out.

    Raises:
        ValueError: they are neither maps nor tokens that make a map of known size.
    """
    owner, shape = model.get_submodule(match.path.rpartition(".")[0]), match.shape
    if len(shape) == 4:
        last = shape[1] == shape[2] != shape[3] or (shape[1] == shape[3] and _output_format(owner) == "NHWC")
        return StageLayout(ChannelsLast(), shape[3]) if last else StageLayout(ChannelsFirst(), shape[1])
    if len(shape) != 3:
        raise ValueError(f"blocks of {type(owner).__name__} give tensors of shape {shape}, which are no maps")
    prefix = told.prefix if told.prefix is not None else _prefix_tokens(model, owner)
    if match.told and match.told[0] * match.told[1] == shape[1] - prefix:
        return StageLayout(TokenRows(prefix, match.told), shape[2], told=True)
    patches = _patches(calls, shape)
    grid = told.grid or _grid_size(owner) or (_size_of(calls, patches) if patches else None)
    if grid is None or shape[1] != prefix + grid[0] * grid[1]:
        raise ValueError(_cannot_be_read(owner, shape, told, _size_of(calls, patches) if patches else None))
    same = patches is not None and _size_of(calls, patches) == grid
    return StageLayout(TokenRows(prefix, grid), shape[2], patches=patches if same else None)


def _cannot_be_read(owner: nn.Module, shape: tuple[int, ...], told: Told, made: Grid | None) -> str:
    """Why tokens make no map, and what to say of them."""
    found = f"blocks of {type(owner).__name__} give tensors of shape {shape}, which are no maps"
    if told != Told():
        size = told.grid or made
        of = f"of {size[0]}×{size[1]}" if size else "whose size is not known"
        return f"{found}, nor {told.prefix or 0} tokens and those of a map {of}"
    beside = f" (its patches are {made[0]}×{made[1]}, which leaves {shape[1] - made[0] * made[1]})" if made else ""
    return (
        f"{found} as far as can be read: say grid=(height, width) and prefix_tokens=n, those before the map's{beside}"
    )


def _grid_size(owner: nn.Module) -> Grid | None:
    """Size of the map that a module beside the blocks says it makes."""
    said: Any = next((child.grid_size for child in owner.children() if hasattr(child, "grid_size")), None)
    return None if said is None else (said[0], said[1])


def _prefix_tokens(model: nn.Module, owner: nn.Module) -> int:
    """Tokens that are no part of the map, as many as a network says."""
    said: Any = getattr(owner, "num_prefix_tokens", getattr(model, "num_prefix_tokens", 0))
    return said


def _patches(calls: Calls, shape: tuple[int, ...]) -> nn.Module | None:
    """The first convolution whose output has the tokens' channels, and no more positions than there are tokens."""
    for module, made in calls.items():
        if isinstance(module, nn.Conv2d) and len(made) == 1 and isinstance(made[0].returned, Tensor):
            _, channels, height, width = made[0].returned.shape
            if channels == shape[2] and height * width <= shape[1]:
                return module
    return None


def _size_of(calls: Calls, module: nn.Module) -> Grid:
    height, width = calls[module][0].returned.shape[-2:]
    return height, width


def _output_format(owner: nn.Module) -> str:
    """The order of axes that a network of timm says it has."""
    return getattr(owner, "output_fmt", "NCHW")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
