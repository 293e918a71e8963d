"""DIANet, arXiv 1905.10671: layer-wise information integration (lii.py) with the DIA cell.

    h_t, c_t = DIA(GAP(u_t), h_{t-1}, c_{t-1});   u_t ← u_t ⊙ h_t

Deviations: none.
"""

import dataclasses

from crosslayer.mechanisms import lii
from crosslayer.mechanisms.cells import CellName
from crosslayer.mechanisms.interface import register


@dataclasses.dataclass(frozen=True)
class Config(lii.Config):
    """Options of DIANet: those of LII, with its own cell by default."""

    cell: CellName = "dia"


register("dianet", lii.LayerwiseIntegration, Config)
