"""MoDA, mixture-of-depths attention: arXiv 2603.15619, as in its model for vision.

Every token's query attends to all tokens of its own block and, in the same softmax, to what earlier blocks had at the
token's own place. In every head, for the token at place p of block t,

    weights = softmax( [ q_p · k_m / √d for all m ]  ∪  [ q_p · k_p^(i) / √d for all i < t ] )
    out_p   = Σ_m weight_m v_m + Σ_i weight_i v_p^(i)

It has no parameters and acts at once. The earlier blocks are those of the stage.

Left out: keys and values of each MLP, which the paper's language models have and its model for vision has not; fewer
heads of keys and values than of queries, which is the network's affair. A mask hides tokens of the block itself.
"""

from typing import Any, final

import torch

from crosslayer.mechanisms.interface import Attention, PositionwiseMechanism
from crosslayer.mechanisms.registry import Paper, register
from crosslayer.ops.attention import attention_scores, depth_scores
from crosslayer.ops.depth import weighted_sum
from crosslayer.ops.shapes import Heads, InputMap

State = tuple[tuple[Heads, Heads], ...]
"""Keys and values of every block so far."""


@final
class MixtureOfDepths(PositionwiseMechanism[State]):
    """No parameters."""

    def acts_on(self, t: int) -> bool:
        """All blocks but the first."""
        return t > 0

    def start(self, x: InputMap, carry: Any) -> State:
        """Nothing stored."""
        return ()

    def attend(self, t: int, q: Heads, k: Heads, v: Heads, state: State, attention: Attention) -> tuple[Heads, State]:
        """One softmax over tokens and depth."""
        stored = (*state, (k, v))
        if not state:
            return attention(q, k, v), stored
        keys, values = zip(*state, strict=True)
        weights = attention.weights(torch.cat([attention_scores(q, k), depth_scores(q, keys)], dim=3))
        tokens = weights[..., : -len(state)] @ v
        over_depth = [weights[..., i - len(state), None] for i in range(len(state))]
        return tokens + weighted_sum(over_depth, values), stored


_PAPER = Paper(
    "2603.15619",
    2026,
    reads="keys and values of earlier blocks at the same place",
    writes="joins the softmax over tokens",
    state="keys and values of T blocks",
    block="0",
    results="none: a model for vision without numbers",
)
register("moda", MixtureOfDepths, paper=_PAPER)
