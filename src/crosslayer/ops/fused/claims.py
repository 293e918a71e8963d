"""A stored value's gradient, made once: Σ_t f_t ⊙ do_t over all later blocks t that read it.

Left to autograd, every later block would write a map f_t ⊙ do_t of its own for each layer stored, and these would be
added up one by one: quadratically many new maps. So a block sends back not the product but its two factors. A value
that is stored comes with *claims*, one for each block that will read it: two tensors without memory, of a map's shape
and of a row's. A block takes one claim of every value and gives do_t as the "gradient" of the one and f_t as that of
the other; no claim is taken twice, so autograd has nothing to add, and at the value's own turn one pass reads all do_t
and writes the sum.

Taken by itself, what a claim receives is no derivative; what the value receives is.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from crosslayer.ops.fused.backends import passes_of
from crosslayer.ops.fused.layout import accumulator, new_map


class Claim(NamedTuple):
    """The right of one block to send back its share of a value's gradient."""

    share: Tensor
    """Receives do_t."""
    factor: Tensor
    """Receives f_t, batch × channels."""


class Claims(NamedTuple):
    """One claim of every stored value, as the ops take them."""

    shares: list[Tensor]
    factors: list[Tensor]


def claims_on(value: Tensor, readers: int) -> list[Claim]:
    """One claim for each block that will read the value."""
    hollow = claims(value, readers)
    return [Claim(*pair) for pair in zip(hollow[:readers], hollow[readers:], strict=True)]


@torch.library.custom_op("crosslayer::history_claims", mutates_args=())
def claims(value: Tensor, readers: int) -> list[Tensor]:
    """So many maps without memory, then as many rows."""
    exact = accumulator(value)
    shares = [value.new_zeros(()).expand(value.shape) for _ in range(readers)]
    return [*shares, *(value.new_zeros((), dtype=exact).expand(value.shape[:2]) for _ in range(readers))]


@claims.register_fake
def _(value: Tensor, readers: int) -> list[Tensor]:
    exact = accumulator(value)
    shares = [value.new_empty(()).expand(value.shape) for _ in range(readers)]
    return [*shares, *(value.new_empty((), dtype=exact).expand(value.shape[:2]) for _ in range(readers))]


@torch.library.custom_op("crosslayer::history_claims_backward", mutates_args=())
def settle(shares: list[Tensor], factors: Tensor) -> Tensor:
    """Σ_t f_t ⊙ do_t."""
    return passes_of("history", shares[0]).weighted_sum(shares, factors)


@settle.register_fake
def _(shares: list[Tensor], factors: Tensor) -> Tensor:
    return new_map(shares[0])


def keep_nothing(ctx, inputs, output) -> None:
    """The backward pass needs nothing but what the claims receive."""


def backward(ctx, received):
    """The value's gradient."""
    readers = len(received) // 2
    return settle(received[:readers], torch.stack(received[readers:], dim=1)), None


claims.register_autograd(backward, setup_context=keep_nothing)


def answers(gradient: Tensor, factors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What a block that made o_t = Σ_m f_m ⊙ V_m sends back through its claims on all V_m."""
    return [gradient] * factors.shape[1], list(factors.unbind(1))
