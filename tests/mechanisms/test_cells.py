"""The recurrent cells: equations, sizes, and broadcasting over stored layers."""

import pytest
import torch

from crosslayer.mechanisms.cells import CELLS, DIA, CellState, PaperDSU, ReleasedDSU


@pytest.mark.parametrize("name", CELLS)
def test_one_call_serves_all_layers(name: str):
    torch.manual_seed(0)
    cell = CELLS[name](8, 2, "sigmoid")
    rows = torch.randn(3, 5, 8)
    state = cell(torch.randn(3, 8), cell.start(torch.zeros(3, 8)))
    together = cell(rows, CellState(state.hidden[:, None], state.memory[:, None]))
    for m in range(5):
        apart = cell(rows[:, m], state)
        torch.testing.assert_close(together.hidden[:, m], apart.hidden)
        torch.testing.assert_close(together.memory[:, m], apart.memory)


@pytest.mark.parametrize(("channels", "reduction"), [(64, 4), (256, 16), (40, 20)])
def test_parameter_counts(channels: int, reduction: int):
    c, s = channels, channels // reduction
    released = 2 * (c * s + s + s * 3 * c + 3 * c)  # 8c²/r and biases
    expected = {
        "dsu": released,
        "released": released,
        "paper": 2 * c * s + s * 3 * c + 3 * c,  # 5c²/r and biases
        "dia": 2 * (c * s + s + s * 4 * c + 4 * c),  # 10c²/r and biases
        "lstm": 8 * c * c + 8 * c,
        "rnn": 2 * c * c + c,
    }
    for name, build in CELLS.items():
        cell = build(channels, reduction, "sigmoid")
        assert sum(p.numel() for p in cell.parameters()) == expected[name], name


def test_released_dsu_is_equations_7_to_9_on_two_nets():
    torch.manual_seed(0)
    cell, y = ReleasedDSU(6, 2), torch.randn(2, 6)
    state = cell(y, cell.start(y))
    z = cell.of_input(y) + cell.of_hidden(torch.zeros(2, 6))  # the first step is fed 0, not σ(0)
    torch.testing.assert_close(state.memory, z[:, :6].sigmoid() * z[:, 12:].tanh())
    torch.testing.assert_close(state.hidden, state.memory.sigmoid())
    z = cell.of_input(y) + cell.of_hidden(state.memory.sigmoid())
    expected = z[:, 6:12].sigmoid() * state.memory + z[:, :6].sigmoid() * z[:, 12:].tanh()
    torch.testing.assert_close(cell(y, state).memory, expected)


def test_paper_dsu_squeezes_the_concatenation():
    torch.manual_seed(0)
    cell, y, c = PaperDSU(6, 2), torch.randn(2, 6), torch.randn(2, 6)
    s = (torch.cat([c.sigmoid(), y], 1) @ cell.squeeze.weight.T).relu()
    i, f, candidate = (s @ cell.excite.weight.T + cell.excite.bias).chunk(3, 1)
    expected = f.sigmoid() * c + i.sigmoid() * candidate.tanh()
    torch.testing.assert_close(cell(y, CellState(c.sigmoid(), c)).memory, expected)


def test_dia_gates_its_output():
    torch.manual_seed(0)
    cell, y = DIA(6, 2), torch.randn(2, 6)
    state = cell(y, cell.start(y))
    z = cell.of_input(y) + cell.of_hidden(torch.zeros(2, 6))
    torch.testing.assert_close(state.hidden, z[:, 18:].sigmoid() * state.memory.sigmoid())


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
def test_context_goes_through_the_activation(activation: str):
    torch.manual_seed(0)
    cell, y = ReleasedDSU(6, 2, activation), torch.randn(2, 6)  # type: ignore[arg-type]
    state = cell(y, cell.start(y))
    expected = {"tanh": state.memory.tanh(), "relu": state.memory.relu(), "identity": state.memory}[activation]
    torch.testing.assert_close(state.hidden, expected)


@pytest.mark.parametrize(("name", "theirs"), [("lstm", torch.nn.LSTMCell(6, 6)), ("rnn", torch.nn.RNNCell(6, 6))])
def test_standard_cells_are_torchs_own(name: str, theirs: torch.nn.RNNCellBase):
    torch.manual_seed(0)
    ours, y, state = CELLS[name](6, 2, "sigmoid"), torch.randn(2, 6), CellState(torch.randn(2, 6), torch.randn(2, 6))
    with torch.no_grad():
        theirs.weight_ih.copy_(ours.of_input.weight)
        theirs.weight_hh.copy_(ours.of_hidden.weight)
        theirs.bias_ih.copy_(ours.of_input.bias)
        theirs.bias_hh.copy_(ours.of_hidden.bias if name == "lstm" else torch.zeros(6))
    expected = theirs(y, (state.hidden, state.memory) if name == "lstm" else state.hidden)
    hidden = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(ours(y, state).hidden, hidden)
    if isinstance(expected, tuple):
        torch.testing.assert_close(ours(y, state).memory, expected[1])
