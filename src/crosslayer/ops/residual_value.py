"""The end of a residual block with the value that the B forms make of its output."""

from crosslayer.ops.fused import residual_value as fused
from crosslayer.ops.light_merge_norm import obstacle
from crosslayer.ops.normalisation import Normalisation
from crosslayer.ops.pooling import KnownPool
from crosslayer.ops.residual_output import known_statistics, residual_output
from crosslayer.ops.selection import takes_fused
from crosslayer.ops.shapes import Kernel, Map
from crosslayer.ops.value_map import convolved_as_it_is, value_map


def residual_value(x: Map, shortcut: Map, norm: Normalisation, kernel: Kernel) -> tuple[KnownPool, KnownPool]:
    """ReLU(BN(x) + s) and V = DW(ReLU(BN(x) + s); K), with their global average pools where these cost nothing.

    Together they keep two maps for the backward pass, x and s; one after the other, three: the output too. Maps
    of two dtypes are left to PyTorch, and so is what a convolution would convert first.

    Raises:
        ValueError: statistics of a single value per channel are asked for, or fused where it cannot run.
    """
    fusible = takes_fused("residual_value", x, obstacle(kernel)) and convolved_as_it_is(x, kernel)
    if not fusible or x.dtype != shortcut.dtype:
        out = residual_output(x, shortcut, norm)
        return out, value_map(out.of, kernel)
    rows = (norm.weight, norm.bias, *known_statistics(x, norm), kernel)
    out, pool, value, value_pool = fused.residual_value(x, shortcut, *rows, norm.epsilon, norm.training)
    return KnownPool(out, pool), KnownPool(value, value_pool)
