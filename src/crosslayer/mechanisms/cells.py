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

from crosslayer.mechanisms.registry import check_reduction, unknown_name

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
    """A recurrent cell along depth."""

    @staticmethod
    def start(like: Rows) -> CellState:
        """Zero vectors, shaped like one step's input."""
        zeros = torch.zeros_like(like)
        return CellState(zeros, zeros)

    @abstractmethod
    def forward(self, y: Rows, state: CellState) -> CellState:
        """One step on input y."""


@final
class ReleasedDSU(Cell):
    """DSU as released: two separate squeeze nets, summed."""

    def __init__(self, channels: int, reduction: int, activation: ActivationName = "sigmoid") -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.of_input = _squeeze_net(channels, reduction, 3 * channels)
        self.of_hidden = _squeeze_net(channels, reduction, 3 * channels)

    def forward(self, y: Rows, state: CellState) -> CellState:
        """Eq. 7-9 with z = MLP_y(y) + MLP_h(h)."""
        memory = dsu_update(self.of_input(y) + self.of_hidden(state.hidden), state.memory)
        return CellState(self.activation(memory), memory)


@final
class PaperDSU(Cell):
    """DSU as printed: one squeeze net on the concatenation of context and input."""

    def __init__(self, channels: int, reduction: int, activation: ActivationName = "sigmoid") -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        squeezed = max(1, channels // reduction)
        self.squeeze = nn.Linear(2 * channels, squeezed, bias=False)
        self.excite = nn.Linear(squeezed, 3 * channels)

    def forward(self, y: Rows, state: CellState) -> CellState:
        """Eq. 7-9 with z = W ReLU(W1 [h, y])."""
        squeezed = self.squeeze(torch.cat([state.hidden.expand_as(y), y], dim=-1))
        memory = dsu_update(self.excite(torch.relu(squeezed)), state.memory)
        return CellState(self.activation(memory), memory)


@final
class LSTM(Cell):
    """Long short-term memory: i, f, o, c̃ from W [y, h] without a squeeze, h = o ⊙ tanh(c); 8c² parameters."""

    def __init__(self, channels: int, reduction: int, activation: ActivationName = "sigmoid") -> None:
        super().__init__()
        self.of_input = nn.Linear(channels, 4 * channels)
        self.of_hidden = nn.Linear(channels, 4 * channels)

    def forward(self, y: Rows, state: CellState) -> CellState:
        """The standard equations."""
        return _gated_output(self.of_input(y) + self.of_hidden(state.hidden), state.memory, torch.tanh)


@final
class RNN(Cell):
    """Plain recurrence, h = tanh(W [y, h⁻] + b); 2c² parameters. Its memory is h itself."""

    def __init__(self, channels: int, reduction: int, activation: ActivationName = "sigmoid") -> None:
        super().__init__()
        self.of_input = nn.Linear(channels, channels)
        self.of_hidden = nn.Linear(channels, channels, bias=False)

    def forward(self, y: Rows, state: CellState) -> CellState:
        """The standard equation."""
        hidden = torch.tanh(self.of_input(y) + self.of_hidden(state.hidden))
        return CellState(hidden, hidden)


@final
class DIA(Cell):
    """The cell of DIANet (arXiv 1905.10671): the same two nets with an output gate, h = o ⊙ σ(c)."""

    def __init__(self, channels: int, reduction: int, activation: ActivationName = "sigmoid") -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.of_input = _squeeze_net(channels, reduction, 4 * channels)
        self.of_hidden = _squeeze_net(channels, reduction, 4 * channels)

    def forward(self, y: Rows, state: CellState) -> CellState:
        """I, f, c̃ as in the DSU, then h = o ⊙ act(c)."""
        return _gated_output(self.of_input(y) + self.of_hidden(state.hidden), state.memory, self.activation)


def dsu_update(z: Tensor, memory: Tensor) -> Tensor:
    """C = σ(z_f) ⊙ c⁻ + σ(z_i) ⊙ tanh(z_c), with z = [z_i, z_f, z_c]."""
    i, f, candidate = z.chunk(3, dim=-1)
    return torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(candidate)


def _gated_output(z: Tensor, memory: Tensor, activation: Callable[[Tensor], Tensor]) -> CellState:
    """C as in the DSU, then h = σ(z_o) ⊙ act(c), with z = [z_i, z_f, z_c, z_o]."""
    channels = memory.shape[-1]
    memory = dsu_update(z[..., : 3 * channels], memory)
    return CellState(torch.sigmoid(z[..., 3 * channels :]) * activation(memory), memory)


def _squeeze_net(channels: int, reduction: int, out: int) -> nn.Sequential:
    """Linear c → c/r, ReLU, linear c/r → out, with biases."""
    squeezed = max(1, channels // reduction)
    return nn.Sequential(nn.Linear(channels, squeezed), nn.ReLU(), nn.Linear(squeezed, out))


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
