"""Pools as ops: what is summed, and what a known value's gradient reaches."""

import pytest
import torch

from crosslayer.fused import pooling
from tests.fused.maps import LAYOUTS, SIZES, TOLERANCE, assert_close, laid_out, noise, skip_untaken

pytestmark = [pytest.mark.sampled(5), pytest.mark.usefixtures("poisoned")]


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_pools_and_their_gradients(device: str, shape: tuple[int, ...], layout: str, dtype: torch.dtype):
    skip_untaken(dtype, device)
    draw = noise()
    exact, incoming = draw(*shape).to(dtype).double().requires_grad_(), draw(*shape[:2]).to(dtype)
    expected = exact.mean((2, 3))
    (of_exact,) = torch.autograd.grad(expected, exact, incoming.double())
    x = laid_out(exact.detach().to(device, dtype), layout).requires_grad_()
    for pool in (pooling.global_average_pool(x), pooling.known_pool(x, expected.detach().to(device, dtype))):
        assert_close(pool.detach(), expected.detach(), dtype, "pool")
        (of_x,) = torch.autograd.grad(pool, x, incoming.to(device))
        assert_close(of_x, of_exact, dtype, "dx")


def test_a_known_value_gets_no_gradient():
    x, value = (torch.ones(shape, requires_grad=True) for shape in ((1, 2, 3, 3), (1, 2)))
    of_x, of_value = torch.autograd.grad(pooling.known_pool(x, value).sum(), [x, value], allow_unused=True)
    assert of_value is None
    torch.testing.assert_close(of_x, torch.full((1, 2, 3, 3), 1 / 9))


def test_pools_have_second_derivatives(device: str):
    x = laid_out(noise()(1, 2, 2, 2), "channels_last").to(device).requires_grad_()
    for op in (pooling.global_average_pool, lambda x: pooling.known_pool(x, x.detach().mean((2, 3)))):
        (first,) = torch.autograd.grad(op(x).square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        torch.testing.assert_close(second, torch.full_like(x, 0.5))


@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
def test_ops_are_well_registered(device: str, layout: str):
    x = laid_out(noise()(2, 6, 2, 2), layout).to(device)
    torch.library.opcheck(pooling._global_average_pool, (x.clone().requires_grad_(),))
    torch.library.opcheck(pooling._known_pool, (x.requires_grad_(), x.detach().mean((2, 3))))
