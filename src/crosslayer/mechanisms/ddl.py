"""DDL, deep delta learning: arXiv 2601.00417, with values of one dimension (d_v = 1).

The branch gives a direction; along it the stream forgets and is written to anew. At every position, with x the
shortcut:

    k = f_t / ‖f_t‖      β = 2σ(w_β · LN(x) + b_β)      v = 4σ(w_v · x + b_v)
    x_{t+1} = act( β k (v - k·x) + x )

β = 1 replaces the component along k by v, β = 2 reflects it. It acts at once: at the start β = 1 and v = 2, since w
and b begin at 0 (of b_β published, of the others this project's choice).

The paper has language models only. This project's choices: LN has no weights of its own; ResNets have no norm before
a block, so that f_t is of x itself, and their ReLU after the add is kept; ‖f‖² has c·ε added, so that a branch of zeros
leaves the stream as it is. In a graft's block without a shortcut x is zero.
"""

from collections.abc import Collection
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import nn

from crosslayer.mechanisms.interface import Add, PositionwiseMechanism, StageShape
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.ops.depth import inverse_rms, rms_projection
from crosslayer.ops.shapes import Map

_EPS = 1e-6


@final
class DeltaLearning(PositionwiseMechanism[None]):
    """Two vectors and two numbers per block; no state."""

    def __init__(self, shape: StageShape, config: Any) -> None:
        super().__init__(shape, config)
        self.forget = nn.ParameterList(torch.zeros(shape.channels) for _ in range(shape.depth))
        self.forget_bias = nn.ParameterList(torch.zeros(1) for _ in range(shape.depth))
        self.value = nn.ParameterList(torch.zeros(shape.channels) for _ in range(shape.depth))
        self.value_bias = nn.ParameterList(torch.zeros(1) for _ in range(shape.depth))

    def unused_parameters(self, unread: Collection[int] = (), no_shortcut: Collection[int] = ()) -> set[str]:
        """Weights on a shortcut that is zero."""
        return {f"{part}.{t}" for part in ("forget", "value") for t in no_shortcut}

    def join(self, t: int, branch: Map, shortcut: Map, state: None, add: Add) -> tuple[Map, None]:
        """The block's own add, of the change along the branch's direction."""
        norm_logit = rms_projection(shortcut - shortcut.mean(1, keepdim=True), self.forget[t][None], _EPS)
        rate = 2 * torch.sigmoid(norm_logit + self.forget_bias[t])
        row = self.value[t].to(shortcut.dtype)[None, :, None, None]
        value = 4 * torch.sigmoid(F.conv2d(shortcut, row) + self.value_bias[t])
        direction = branch * (inverse_rms(branch, _EPS) / branch.shape[1] ** 0.5).to(branch.dtype)
        along = (direction * shortcut).sum(1, keepdim=True)
        return add((rate * (value - along)).to(branch.dtype) * direction, shortcut), state


_PAPER = Paper(
    "2601.00417",
    2026,
    reads="branch and shortcut at every position",
    writes="replaces the add",
    state="none",
    block="2*c + 2",
    results="none: language only",
)
register("ddl", DeltaLearning, paper=_PAPER)
