"""DIANet, arXiv 1905.10671: layer-wise information integration (lii.py) with the DIA cell.

    h_t, c_t = DIA(GAP(u_t), h_{t-1}, c_{t-1});   u_t ← u_t ⊙ h_t

Deviations: none.
"""

import dataclasses

from crosslayer.mechanisms import lii
from crosslayer.mechanisms.cells import CellName
from crosslayer.mechanisms.registry import Paper, register


@dataclasses.dataclass(frozen=True)
class Config(lii.Config):
    """Options of DIANet: those of LII, with its own cell by default."""

    cell: CellName = "dia"


_PAPER = Paper(
    "1905.10671",
    2019,
    reads="branch, pooled",
    writes="gates the branch",
    state="two vectors",
    block="0",
    stage="10*c*(c//20) + 2*(c//20) + 8*c",
    results="ImageNet, ResNet-50: top-1 77.2",
)
register("dianet", lii.LayerwiseIntegration, Config, _PAPER)
