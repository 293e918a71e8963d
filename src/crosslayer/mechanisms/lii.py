"""LII, layer-wise information integration: arXiv 2406.13392, Table 6; the scheme is DIANet's (arXiv 1905.10671).

    h_t, c_t = cell(GAP(u_t), h_{t-1}, c_{t-1});   u_t ← u_t ⊙ h_t

on the residual branch u of every block, before it is added; one cell per stage, shared by its blocks. With a DSU,
h = σ(c). Deviations: none.
"""

import dataclasses
from typing import final

from crosslayer.mechanisms.cells import CELLS, CellName, CellState, check_cell_options
from crosslayer.mechanisms.interface import Mechanism, StageShape
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.ops.pooling import global_average_pool
from crosslayer.ops.shapes import Map


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of LII.

    Args:
        cell: the recurrent cell along depth.
        reduction: r, channels per squeezed channel in the cell (absent: 4 in networks for small images, otherwise 20);
            `lstm` and `rnn` have no squeeze.
    """

    cell: CellName = "dsu"
    reduction: int | None = None

    def __post_init__(self) -> None:
        check_cell_options(self.cell, self.reduction, "sigmoid")


@final
class LayerwiseIntegration(Mechanism[CellState | None]):
    """One cell per stage; the state is the cell's, absent before the first block."""

    def __init__(self, shape: StageShape, config: Config) -> None:
        super().__init__(shape, config)
        reduction = config.reduction or (4 if shape.small_images else 20)
        self.cell = CELLS[config.cell](shape.channels, reduction, "sigmoid")

    def gate(self, t: int, branch: Map, state: CellState | None) -> tuple[Map, CellState]:
        """Steps the cell on the pooled branch and scales the branch by what it outputs."""
        pooled = global_average_pool(branch)
        stepped: CellState = self.cell(pooled, state or self.cell.start(pooled))
        return branch * stepped.hidden.to(branch.dtype)[..., None, None], stepped


_PAPER = Paper(
    "2406.13392",
    2024,
    reads="branch, pooled",
    writes="gates the branch",
    state="one vector",
    block="0",
    stage="8*c*(c//20) + 2*(c//20) + 6*c",
    results="CIFAR only",
)
register("lii", LayerwiseIntegration, Config, _PAPER)
