"""Maps in every layout, and what is close to the float64 reference in every precision."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from crosslayer.fused import support

SIZES = [(2, 6, 5, 7), (1, 70, 1, 1), (2, 4, 1, 9), (2, 3, 6, 1)]
LAYOUTS = ["contiguous", "channels_last", "sliced"]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def noise(seed: int = 0):
    """Draws float64 tensors, one after another."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers, lying otherwise."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        wider = x.new_zeros(*x.shape[:3], 2 * x.shape[3])
        wider[..., ::2] = x
        return wider[..., ::2]
    return x.contiguous()


def assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype, name: str) -> None:
    """Relative to the largest number expected."""
    assert found.shape == expected.shape, name
    if not found.numel():
        return
    error = (found.double().cpu() - expected).abs().max() / expected.abs().max().clamp_min(1e-3)
    assert error <= TOLERANCE[dtype], f"{name}: {error:.2e}"


def cast(given: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Maps and kernels in a dtype, what else is small in one that is at least float32."""
    narrow = dtype if dtype == torch.float64 else torch.float32
    return {name: one.to(dtype if one.dim() == 4 else narrow) for name, one in given.items()}


def check_fused(
    run: Callable[[str, dict[str, Tensor]], dict[str, Tensor]],
    given: dict[str, Tensor],
    maps: Iterable[str],
    device: str,
    dtype: torch.dtype,
    layout: str,
) -> dict[str, Tensor]:
    """What `run` makes fused, in a dtype and with the maps laid out, once it is close to the float64 reference."""
    rounded = {name: one.double() for name, one in cast(given, dtype).items()}
    expected = run("reference", rounded)
    moved = {name: one.to(device) for name, one in cast(rounded, dtype).items()}
    found = run("fused", moved | {name: laid_out(moved[name], layout) for name in maps})
    for name, one in found.items():
        assert_close(one, expected[name], dtype, name)
    return found


def skip_untaken(dtype: torch.dtype, device: str) -> None:
    """Skips where there are no passes for numbers of this kind."""
    if dtype == torch.float16 and device == "cpu" and not support.INTERPRETED:
        pytest.skip("the C++ passes do not take float16")
