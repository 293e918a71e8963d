"""Arithmetic without parameters: each op's meaning, its plain PyTorch reference, and for some a fused form."""

from crosslayer.ops.history import StoredValue, history_sum, history_weights, store_value
from crosslayer.ops.history_sum_norm import history_sum_norm
from crosslayer.ops.light_block import LightAttention, LightBlock, light_block, takes_light_block
from crosslayer.ops.light_merge import head_gate, light_merge
from crosslayer.ops.light_merge_norm import light_merge_norm
from crosslayer.ops.normalisation import Normalisation, Pending
from crosslayer.ops.pooling import KnownPool, global_average_pool, pool_of
from crosslayer.ops.residual_output import residual_output
from crosslayer.ops.residual_value import residual_value
from crosslayer.ops.selection import get_implementation, implementation, set_implementation
from crosslayer.ops.value_map import value_map

__all__ = [
    "KnownPool",
    "LightAttention",
    "LightBlock",
    "Normalisation",
    "Pending",
    "StoredValue",
    "get_implementation",
    "global_average_pool",
    "head_gate",
    "history_sum",
    "history_sum_norm",
    "history_weights",
    "implementation",
    "light_block",
    "light_merge",
    "light_merge_norm",
    "pool_of",
    "residual_output",
    "residual_value",
    "set_implementation",
    "store_value",
    "takes_light_block",
    "value_map",
]
