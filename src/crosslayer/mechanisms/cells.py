"""Recurrent cells along depth: a small network that steps once per block on a pooled map.

The state of a cell is (hidden, memory), both batch × channels: `hidden` is what the next step is fed besides its
input, and what the cell outputs; `memory` is the context c. A cell broadcasts over leading axes, so that one call
serves any number of stored layers.

DSU (DLA, arXiv 2406.13392, Eq. 7-9), with z the pre-activations of its input gate, forget gate and candidate:

    i, f, c̃ = σ(z_i), σ(z_f), tanh(z_c);   c ← f ⊙ c⁻ + i ⊙ c̃

- paper form: z = W ReLU(W1 [act(c⁻), y]): one squeeze of the concatenation, about 5c²/r parameters;
- released form: z = MLP_y(y) + MLP_h(act(c⁻)): two squeezes, summed, about 8c²/r. Table 1 counts this one; `dsu` is
  another name for it.

All cells start from zero vectors, so the first step is fed 0 and not act(0), as the released code does.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crosslayer.mechanisms.interface import check_reduction, unknown_name
from crosslayer.ops.dsu import Context, dsu_update

Rows = Float[Tensor, "*rows channels"]
ActivationName = Literal["sigmoid", "tanh", "relu", "identity"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "identity": lambda x: x,
}


class CellState(NamedTuple):
    """What a cell remembers between blocks."""

    hidden: Tensor
    memory: Tensor


class Cell(nn.Module, ABC):
    """A recurrent cell along depth.

    A step joins what the cell makes of its input with what it makes of `hidden`. Each is there to be called by itself:
    inputs that are known together are one call, and a state that several steps begin from is looked at once.
    """

    of_input: Callable[[Tensor], Tensor]
    of_hidden: Callable[[Tensor], Tensor]

    @staticmethod
    def start(like: Rows) -> CellState:
        """Zero vectors, shaped like one step's input."""
        zeros = torch.zeros_like(like)
        return CellState(zeros, zeros)

    def forward(self, y: Rows, state: CellState) -> CellState:
        """One step on input y."""
        return self.step(self.of_input(y), *self.context(state))

    def context(self, state: CellState) -> Context:
        """What steps that begin from this state need of it."""
        return Context(self.of_hidden(state.hidden), state.memory)

    @abstractmethod
    def step(self, seen: Tensor, recalled: Tensor, memory: Tensor) -> CellState:
        """One step, from what the cell has made of its input and of the last hidden vector."""


@final
class ReleasedDSU(Cell):
    """DSU as released: two separate squeeze nets, summed."""

    def __init__(self, channels: int, reduction: int, activation: ActivationName = "sigmoid") -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.of_input = SqueezeNet(channels, reduction, 3 * channels)
        self.of_hidden = SqueezeNet(channels, reduction, 3 * channels)

    def step(self, seen: Tensor, recalled: Tensor, memory: Tensor) -> CellState:
        """Eq. 7-9 with z = MLP_y(y) + MLP_h(h)."""
        memory = dsu_update(seen + recalled, memory)
        return CellState(self.activation(memory), memory)


@final
class PaperDSU(Cell):
    """DSU as printed: one squeeze net on the concatenation of context and input."""

    def __init__(self, channels: int, reduction: int, activation: ActivationName = "sigmoid") -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        squeezed = max(1, channels // reduction)
        self.channels = channels
        self.squeeze = nn.Linear(2 * channels, squeezed, bias=False)
        self.excite = nn.Linear(squeezed, 3 * channels)

    def of_input(self, y: Rows) -> Tensor:
        """Its part of W1 [h, y]."""
        return nn.functional.linear(y, self.squeeze.weight[:, self.channels :])

    def of_hidden(self, hidden: Rows) -> Tensor:
        """Likewise."""
        return nn.functional.linear(hidden, self.squeeze.weight[:, : self.channels])

    def step(self, seen: Tensor, recalled: Tensor, memory: Tensor) -> CellState:
        """Eq. 7-9 with z = W ReLU(W1 [h, y])."""
        memory = dsu_update(self.excite(torch.relu(seen + recalled)), memory)
        return CellState(self.activation(memory), memory)


@final
class LSTM(Cell):
    """Long short-term memory: i, f, o, c̃ from W [y, h] without a squeeze, h = o ⊙ tanh(c); 8c² parameters."""

    def __init__(self, channels: int, reduction: int, activation: ActivationName = "sigmoid") -> None:
        super().__init__()
        self.of_input = nn.Linear(channels, 4 * channels)
        self.of_hidden = nn.Linear(channels, 4 * channels)

    def step(self, seen: Tensor, recalled: Tensor, memory: Tensor) -> CellState:
        """The standard equations."""
        return gated_output(seen + recalled, memory, torch.tanh)


@final
class RNN(Cell):
    """Plain recurrence, h = tanh(W [y, h⁻] + b); 2c² parameters. Its memory is h itself."""

    def __init__(self, channels: int, reduction: int, activation: ActivationName = "sigmoid") -> None:
        super().__init__()
        self.of_input = nn.Linear(channels, channels)
        self.of_hidden = nn.Linear(channels, channels, bias=False)

    def step(self, seen: Tensor, recalled: Tensor, memory: Tensor) -> CellState:
        """The standard equation."""
        hidden = torch.tanh(seen + recalled)
        return CellState(hidden, hidden)


@final
class DIA(Cell):
    """The cell of DIANet (arXiv 1905.10671): the same two nets with an output gate, h = o ⊙ σ(c)."""

    def __init__(self, channels: int, reduction: int, activation: ActivationName = "sigmoid") -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.of_input = SqueezeNet(channels, reduction, 4 * channels)
        self.of_hidden = SqueezeNet(channels, reduction, 4 * channels)

    def step(self, seen: Tensor, recalled: Tensor, memory: Tensor) -> CellState:
        """I, f, c̃ as in the DSU, then h = o ⊙ act(c)."""
        return gated_output(seen + recalled, memory, self.activation)


def gated_output(z: Tensor, memory: Tensor, activation: Callable[[Tensor], Tensor]) -> CellState:
    """C as in the DSU, then h = σ(z_o) ⊙ act(c), with z = [z_i, z_f, z_c, z_o]."""
    channels = memory.shape[-1]
    memory = dsu_update(z[..., : 3 * channels], memory)
    return CellState(torch.sigmoid(z[..., 3 * channels :]) * activation(memory), memory)


@final
class SqueezeNet(nn.Sequential):
    """Linear c → c/r, ReLU, linear c/r → out, with biases; at least in float32.

    Under automatic mixed precision too: a context is carried through all of a stage, and products this small gain
    nothing from bfloat16 that the casts of their weights do not cost.
    """

    def __init__(self, channels: int, reduction: int, out: int) -> None:
        squeezed = max(1, channels // reduction)
        super().__init__(nn.Linear(channels, squeezed), nn.ReLU(), nn.Linear(squeezed, out))

    def forward(self, y: Rows) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # a name of its own
        """Rows × c in, rows × out out."""
        kind = y.device.type
        if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
            return super().forward(y)
        with torch.autocast(kind, enabled=False):
            return super().forward(y.float())


CellName = Literal["dsu", "released", "paper", "dia", "lstm", "rnn"]
CELLS: dict[str, Callable[[int, int, ActivationName], Cell]] = {
    "dsu": ReleasedDSU,
    "released": ReleasedDSU,
    "paper": PaperDSU,
    "dia": DIA,
    "lstm": LSTM,
    "rnn": RNN,
}
FIXED_ACTIVATION = ("lstm", "rnn")


def check_cell_options(cell: str, reduction: int | None, activation: str) -> None:
    """Raises ValueError, with the closest names, for options that no cell can be built from."""
    if cell not in CELLS:
        raise ValueError(unknown_name("cell", cell, CELLS))
    if activation not in ACTIVATIONS:
        raise ValueError(unknown_name("activation", activation, ACTIVATIONS))
    if activation != "sigmoid" and cell in FIXED_ACTIVATION:
        raise ValueError(f"cell {cell!r} has an activation of its own (tanh); leave out activation={activation}")
    if reduction is not None:
        check_reduction(reduction)
