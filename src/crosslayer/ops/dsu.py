"""The arithmetic of the dynamic sharing unit (DLA, arXiv 2406.13392, Eq. 7-9), and the weights of the released one."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def dsu_update(z: Tensor, memory: Tensor) -> Tensor:
    """C = σ(z_f) ⊙ c⁻ + σ(z_i) ⊙ tanh(z_c), with z = [z_i, z_f, z_c]."""
    i, f, candidate = z.chunk(3, dim=-1)
    return torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(candidate)


class Squeeze(NamedTuple):
    """Weights of W₂ ReLU(W₁ v + b₁) + b₂."""

    squeeze: Tensor
    squeeze_bias: Tensor
    excite: Tensor
    excite_bias: Tensor

    def of(self, rows: Tensor) -> Tensor:
        """In plain PyTorch."""
        squeezed = F.relu(F.linear(rows, self.squeeze, self.squeeze_bias))
        return F.linear(squeezed, self.excite, self.excite_bias)


class Context(NamedTuple):
    """A state as the steps that follow see it: what the cell makes of `hidden`, once for all of them, and `memory`."""

    recalled: Tensor
    memory: Tensor


class DSU(NamedTuple):
    """Weights of the released cell: z is the sum of what these two make of its input and of the last hidden vector."""

    of_input: Squeeze
    of_hidden: Squeeze

    def context(self, y: Tensor, before: Context | None) -> Context:
        """One step on input y, from zeros where there is nothing before."""
        zeros = torch.zeros_like(y)
        memory = self.memory(y, before or Context(self.of_hidden.of(zeros), zeros))
        return Context(self.of_hidden.of(torch.sigmoid(memory)), memory)

    def memory(self, y: Tensor, before: Context) -> Tensor:
        """After one step on input y."""
        return dsu_update(self.of_input.of(y) + before.recalled, before.memory)
