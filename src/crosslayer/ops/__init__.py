"""Arithmetic without parameters: each op's meaning and its plain PyTorch reference."""

from crosslayer.ops.history import history_sum, history_weights
from crosslayer.ops.light_merge import head_gate, light_merge
from crosslayer.ops.pooling import global_average_pool

__all__ = ["global_average_pool", "head_gate", "history_sum", "history_weights", "light_merge"]
