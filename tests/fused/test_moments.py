"""Batch statistics in float32 keep their digits wherever a few numbers lie far from the rest, and on large maps."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crosslayer.fused.cpu import compiler
from crosslayer.fused.history_sum import cpu as history_norm_passes
from crosslayer.fused.light_merge import cpu as light_passes
from crosslayer.fused.light_merge.terms import Terms
from crosslayer.fused.residual_output import cpu as residual_passes

pytestmark = pytest.mark.sampled(5)

OFFSETS = [0, 10, 30, 100, 1000]
PLACES = ["first position", "last position", "row", "image", "everywhere"]
LARGE = [(8, 16, 56, 56), (2, 16, 200, 334)]


@pytest.fixture(autouse=True)
def needs_kernels():
    if obstacle := compiler.obstacle():
        pytest.skip(obstacle)


def outlying(size: tuple[int, ...], offset: float, place: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise with what lies at a place so many standard deviations away."""
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    where = {
        "first position": (slice(None), slice(None), 0, 0),
        "last position": (slice(None), slice(None), -1, -1),
        "row": (slice(None), slice(None), size[2] // 2),
        "image": (0,),
        "everywhere": (),
    }
    x[where[place]] += offset
    return x.to(dtype).to(memory_format=torch.channels_last)


def assert_accurate(found: tuple[Tensor, Tensor], x: Tensor, offset: float):
    """Against float64, with what PyTorch's float32 loses as a measure."""
    mean, variance = x.double().mean((0, 2, 3)), x.double().var((0, 2, 3), unbiased=False)
    lost = (variance_of_batch_norm(x.float()) - variance).abs() / variance
    error = (found[1].double() - variance).abs() / variance
    assert (error <= (4 * lost).clamp_min(2e-6)).all(), (
        f"variance: {error.max():.1e}, {(error / (4 * lost).clamp_min(2e-6)).max():.2f} of what may be lost"
    )
    off = (found[0].double() - mean).abs()
    assert (off <= 1e-6 * variance.sqrt() + 1e-7 * mean.abs()).all(), (
        f"mean: {off.max():.1e} with an offset of {offset}"
    )


def variance_of_batch_norm(x: Tensor) -> Tensor:
    count, running = x.numel() // x.shape[1], torch.zeros(x.shape[1])
    F.batch_norm(x, torch.zeros_like(running), running, training=True, momentum=1.0)
    return running.double() * (count - 1) / count


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("size", LARGE)
def test_of_a_map(size: tuple[int, ...], offset: float, place: str, dtype: torch.dtype):
    x = outlying(size, offset, place, dtype)
    assert_accurate(residual_passes.moments(x), x, offset)


@pytest.mark.parametrize("size", [(2, 3, 1, 1), (3, 70, 1, 3), (1, 64, 8, 8), (4, 17, 9, 7), (2, 130, 33, 32)])
@pytest.mark.parametrize("offset", [0, 1000])
def test_of_maps_of_every_size(size: tuple[int, ...], offset: float):
    x = outlying(size, offset, "first position")
    assert_accurate(residual_passes.moments(x), x, offset)


@pytest.mark.parametrize("offset", [0, 1000])
def test_of_a_map_that_a_detector_sees(offset: float):
    x = outlying((1, 16, 800, 1333), offset, "first position")
    assert_accurate(residual_passes.moments(x), x, offset)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("size", LARGE)
def test_of_a_sum_over_layers(size: tuple[int, ...], offset: float, place: str):
    x = outlying(size, offset, place)
    values, factors = [x, x.flip(0)], torch.ones(size[0], 2, size[1]) / 2
    values[1] = values[1].to(memory_format=torch.channels_last)
    of = (values[0] + values[1]) / 2
    assert_accurate(history_norm_passes.moments(values, factors), of, offset)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("size", [*LARGE, (2, 16, 8, 8), (2, 5, 3, 1)])
def test_of_a_merge(size: tuple[int, ...], offset: float, place: str):
    x, shortcut = torch.zeros(size).to(memory_format=torch.channels_last), outlying(size, offset, place)
    ones = torch.ones(size[:2])
    merged = torch.empty_like(x)
    found = light_passes.moments(Terms(x, shortcut, torch.ones(size[1], 1, 3, 3), ones, ones, None), merged)
    assert torch.equal(merged, shortcut)
    assert_accurate(found, merged, offset)


def test_of_a_map_that_is_the_same_everywhere():
    x = torch.full((2, 16, 40, 40), 1000.1).to(memory_format=torch.channels_last)
    mean, variance = residual_passes.moments(x)
    assert torch.equal(mean, torch.full((16,), 1000.1))
    assert torch.equal(variance, torch.zeros(16))


def test_of_no_images():
    mean, variance = residual_passes.moments(torch.empty(0, 16, 4, 4).to(memory_format=torch.channels_last))
    assert torch.equal(mean, torch.zeros(16))
    assert variance.isnan().sum() in (0, 16)
