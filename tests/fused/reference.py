"""The ops' equations in plain PyTorch, with the arguments that the fused ops take."""

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crosslayer.fused.batch_norm import BatchNorm
from crosslayer.fused.history_sum import Stored
from crosslayer.fused.light_block import LightAttention, LightBlock
from crosslayer.fused.residual_output import ResidualOutput
from crosslayer.fused.residual_value import ResidualValue


def batch_norm(x: Tensor, norm: BatchNorm) -> Tensor:
    statistics, affine = (norm.running_mean, norm.running_var), (norm.weight, norm.bias)
    return F.batch_norm(x, *statistics, *affine, norm.training, norm.momentum, norm.epsilon)


def depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


def global_average_pool(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def known_pool(x: Tensor, value: Tensor) -> Tensor:
    return x.mean((2, 3))


def residual_output(
    x: Tensor, shortcut: Tensor, norm: BatchNorm, shortcut_pool: Tensor | None = None
) -> ResidualOutput:
    """ReLU(BN(x) + s)."""
    out = (batch_norm(x, norm) + shortcut).relu()
    nothing: Any = None
    return ResidualOutput(out, out.mean((2, 3)), None if shortcut_pool is None else shortcut.mean((2, 3)), nothing)


def residual_value(x: Tensor, shortcut: Tensor, norm: BatchNorm, kernel: Tensor) -> ResidualValue:
    """ReLU(BN(x) + s), and DW of that."""
    out = (batch_norm(x, norm) + shortcut).relu()
    value = depthwise(out, kernel)
    return ResidualValue(out, out.mean((2, 3)), value, value.detach().mean((2, 3)))


def light_merge(
    x: Tensor,
    shortcut: Tensor,
    value_kernel: Tensor,
    gate: Tensor,
    scale: Tensor,
    shortcut_kernel: Tensor | None,
    norm: BatchNorm,
    keep: Tensor | None = None,
    pooled: bool = False,
    ending: object = None,
) -> tuple[Tensor, Tensor | None]:
    """x + keep · BN(G ⊙ DW(x; K) + a ⊙ s + DW(s; Ks))."""
    gate = gate.repeat_interleave(x.shape[1] // gate.shape[1], dim=1)
    z = gate[..., None, None] * depthwise(x, value_kernel) + scale[..., None, None] * shortcut
    if shortcut_kernel is not None:
        z = z + depthwise(shortcut, shortcut_kernel)
    branch = batch_norm(z, norm)
    out = x + (branch if keep is None else keep * branch)
    return out, out.detach().mean((2, 3)) if pooled else None


def store(value: Tensor, pool: Tensor | None, readers: int) -> Stored:
    return Stored(value, None if pool is None else value.mean((2, 3)))


def history_sum(values: list[Stored], factors: Tensor) -> Tensor:
    """Σ f_m V_m."""
    return torch.stack([factors[:, m, :, None, None] * one.value for m, one in enumerate(values)]).sum(0)


def history_sum_norm(
    x: Tensor, values: list[Stored], factors: Tensor, norm: BatchNorm, keep: Tensor | None = None
) -> Tensor:
    """x + keep · ReLU(BN(Σ f_m V_m))."""
    branch = batch_norm(history_sum(values, factors), norm).relu()
    return x + (branch if keep is None else keep * branch)


def light_block(
    convolved: Tensor,
    shortcut: Tensor,
    norm: BatchNorm,
    attention: LightAttention,
    shortcut_norm: BatchNorm | None = None,
    shortcut_pool: Tensor | None = None,
    context: tuple[Tensor, Tensor] | None = None,
) -> LightBlock:
    """End of a block, attention's small vectors, merge."""
    s = shortcut if shortcut_norm is None else batch_norm(shortcut, shortcut_norm)
    x, y, _, _ = residual_output(convolved, s, norm)
    query, key = (F.conv1d(y[:, None], one, padding=one.shape[2] // 2)[:, 0] for one in attention[:2])
    products = (query * key).unflatten(1, (-1, attention.head_channels)).sum(2)
    gate = torch.sigmoid(products / attention.head_channels**0.5)
    carried, kernel = attention.scale.expand_as(y), attention.stage_kernel
    if attention.cell is not None:
        context = stepped(attention.cell, y, context)
        carried = carried * torch.sigmoid(memory_after(attention.cell, s.mean((2, 3)), context))
    if kernel is not None:
        kernel = attention.scale[:, None, None, None] * kernel
    out, pool = light_merge(x, s, attention.value, gate, carried, kernel, attention.norm, pooled=True)
    assert pool is not None
    return LightBlock(out, pool, gate, carried, context)


def squeezed(net: list[Tensor], rows: Tensor) -> Tensor:
    """W₂ ReLU(W₁ v + b₁) + b₂."""
    return F.linear(F.relu(F.linear(rows, net[0], net[1])), net[2], net[3])


def memory_after(cell: list[Tensor], y: Tensor, context: tuple[Tensor, Tensor]) -> Tensor:
    """C = σ(z_f) ⊙ c⁻ + σ(z_i) ⊙ tanh(z_c)."""
    i, f, candidate = (squeezed(cell[:4], y) + context[0]).chunk(3, dim=1)
    return torch.sigmoid(f) * context[1] + torch.sigmoid(i) * torch.tanh(candidate)


def stepped(cell: list[Tensor], y: Tensor, context: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """The cell's state after one step, from zeros where there is nothing before."""
    zeros = torch.zeros_like(y)
    memory = memory_after(cell, y, context or (squeezed(cell[4:], zeros), zeros))
    return squeezed(cell[4:], torch.sigmoid(memory)), memory


def ops_of(implementation: str) -> Any:
    """These functions, or the fused ones by the same names."""
    if implementation == "reference":
        return SimpleNamespace(**globals())
    from crosslayer.fused import history_sum, light_block, light_merge, pooling, residual_output, residual_value

    names = {}
    for module in (pooling, residual_output, residual_value, light_merge, history_sum, light_block):
        names |= vars(module)
    return SimpleNamespace(**names)
