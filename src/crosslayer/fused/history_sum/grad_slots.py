"""A stored value's gradient, made once: Σ_t f_t ⊙ do_t over all later blocks t that read it.

Left to autograd, every later block would write a map f_t ⊙ do_t of its own for each layer stored, and these would be
added up one by one: quadratically many new maps. So a block sends back not the product but its two factors. A value
that is stored comes with *slots*, one for each block that will read it: two tensors without memory, of a map's shape
and of a row's. A block takes one slot of every value, by position, and gives do_t as the "gradient" of the one and f_t
as that of the other; no slot is taken twice, so autograd has nothing to add, and at the value's own turn one pass reads
all do_t and writes the sum, with what the value's pool adds everywhere.

Taken by itself, what a slot receives is no derivative; what the value receives is.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from crosslayer.fused.custom_op import custom_op, differentiable
from crosslayer.fused.history_sum import cpu
from crosslayer.fused.layout import accumulator, new_map
from crosslayer.fused.pooling import everywhere, expanded
from crosslayer.fused.support import runs_triton
from crosslayer.ops.shapes import Map, Vector


class GradSlot(NamedTuple):
    """Where one block sends back its share of a value's gradient."""

    share: Tensor
    """Receives do_t."""
    factor: Tensor
    """Receives f_t, batch × channels."""


class Stored(NamedTuple):
    """A value V that later blocks read; never changed.

    Args:
        value: V.
        pool: GAP(V), a function of V, where it is known.
        slots: one for each block that will read V, its own first; absent, readers send V ordinary gradients.
    """

    value: Map
    pool: Vector | None = None
    slots: list[GradSlot] | None = None


def store(value: Map, pool: Vector | None, readers: int) -> Stored:
    """A value for so many blocks, its own included, each of which reads it once.

    Args:
        value: V.
        pool: the known value of GAP(V), if it is known; it gets no gradient itself, but V does.
        readers: how many blocks.
    """
    known, *hollow = grad_slots(value, None if pool is None else pool.detach(), readers)
    slots = [GradSlot(*pair) for pair in zip(hollow[:readers], hollow[readers:], strict=True)]
    return Stored(value, None if pool is None else known, slots)


def taken(values: list[Stored]) -> tuple[list[Tensor], list[int], list[Tensor], list[Tensor]]:
    """What the block takes that stored the last of the values: maps, those with slots, its slots' shares and factors.

    That block is as many readers behind a value's own as values were stored after it.

    Raises:
        ValueError: a value has fewer slots than layers were stored from it on.
    """
    maps, slotted, shares, factors = [], [], [], []
    for m, (value, _, slots) in enumerate(values):
        maps.append(value if slots is None else value.detach())
        if slots is None:
            continue
        behind = len(values) - 1 - m
        if behind >= len(slots):
            raise ValueError(f"value {m} of {len(values)} was stored for {len(slots)} readers, and this is one more")
        slotted.append(m)
        shares.append(slots[behind].share)
        factors.append(slots[behind].factor)
    return maps, slotted, shares, factors


def passes(x: Tensor):
    """Those over maps like x."""
    if runs_triton(x):
        from crosslayer.fused.history_sum import gpu

        return gpu
    return cpu


def _hollow(value: Tensor, pool: Tensor | None, readers: int) -> list[Tensor]:
    shares = [value.new_zeros(()).expand(value.shape) for _ in range(readers)]
    row = value.new_zeros((), dtype=accumulator(value))
    known = row if pool is None else pool.clone(memory_format=torch.contiguous_format)
    return [known, *shares, *(row.clone().expand(value.shape[:2]) for _ in range(readers))]


@custom_op("grad_slots", fake=_hollow)
def grad_slots(value: Tensor, pool: Tensor | None, readers: int) -> list[Tensor]:
    """The pool's numbers, or nothing of use; so many maps without memory, then as many rows."""
    return _hollow(value, pool, readers)


@custom_op("grad_slots_backward", fake=lambda shares, factors, of_pool: new_map(shares[0]))
def summed(shares: list[Tensor], factors: Tensor, of_pool: Tensor | None) -> Tensor:
    """Σ_t f_t ⊙ do_t, plus what the pool's gradient adds to every position."""
    start = None if of_pool is None else everywhere(of_pool, shares[0])
    return passes(shares[0]).weighted_sum(shares, factors, start)


def _keep_shape(ctx, inputs, output) -> None:
    value, pool, ctx.readers = inputs
    ctx.shape, ctx.dtype, ctx.has_pool = value.shape, value.dtype, pool is not None
    ctx.set_materialize_grads(False)


def _backward(ctx, received):
    of_pool, shares, factors = received[0], received[1 : ctx.readers + 1], received[ctx.readers + 1 :]
    of_pool = of_pool if ctx.has_pool else None
    there = [(share, factor) for share, factor in zip(shares, factors, strict=True) if share is not None]
    if there:  # a block that never comes sends nothing
        shares, factors = zip(*there, strict=True)
        return summed(list(shares), torch.stack(factors, dim=1), of_pool), None, None
    return None if of_pool is None else expanded(of_pool.to(ctx.dtype), ctx.shape), None, None


differentiable(grad_slots, _keep_shape, _backward)


def reader_gradients(
    gradient: Tensor, factors: Tensor, slotted: list[int]
) -> tuple[list[Tensor | None], list[Tensor], list[Tensor]]:
    """What a block that made o_t = Σ_m f_m ⊙ V_m sends back: to values without slots, and through its slots."""
    taken_ = set(slotted)
    direct = [None if m in taken_ else summed([gradient], factors[:, m : m + 1], None) for m in range(factors.shape[1])]
    return direct, [gradient] * len(slotted), [factors[:, m] for m in slotted]


def no_gradient(places: list[int]) -> list[Tensor] | None:
    """Of a list of numbers; to PyTorch an empty one is a list of tensors."""
    return None if places else []
