"""A block's end whose merge makes the output anew and sends back gradients in parts, against the float64 reference."""

import pytest
import torch
from torch import Tensor

from crosslayer.fused.batch_norm import BatchNorm
from crosslayer.fused.residual_output import ResidualOutput
from crosslayer.fused.support import runs_triton
from tests.fused import test_residual_output
from tests.fused.maps import LAYOUTS, SIZES, TOLERANCE, check_fused, noise, skip_untaken
from tests.fused.reference import ops_of
from tests.fused.test_residual_output import BLOCKS

pytestmark = [pytest.mark.sampled(5), pytest.mark.usefixtures("poisoned")]

LEAVES = ("x", "s", "w", "b", "k", "carried", "w2", "b2")


def case(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """What ends a block, and what its merge adds."""
    draw, channels = noise(1), shape[1]
    kernels = {"k": draw(channels, 1, 3, 3), "carried": draw(channels, 1, 3, 3)}
    norm = {
        "w2": 1 + draw(channels) / 4,
        "b2": draw(channels),
        "mean2": draw(channels),
        "var2": draw(channels) ** 2 + 1,
    }
    return test_residual_output.case(shape) | kernels | norm | {"read": draw(*shape)}


def ended(impl: str, leaf: dict[str, Tensor], training: bool) -> ResidualOutput:
    """The block's output."""
    norm = BatchNorm(leaf["w"], leaf["b"], leaf["mean"], leaf["var"], training, 0.1, 1e-5)
    return ops_of(impl).residual_output(leaf["x"], leaf["s"], norm)


def merged(impl: str, leaf: dict[str, Tensor], out: ResidualOutput, training: bool, carried: bool) -> Tensor:
    """The merge of the output, gated and scaled by what depends on its pool."""
    pool = out.pool.to(leaf["w"].dtype)
    norm = BatchNorm(leaf["w2"], leaf["b2"], leaf["mean2"], leaf["var2"], training, 0.1, 1e-5)
    terms = (out.out, leaf["s"], leaf["k"], torch.sigmoid(pool), torch.tanh(pool), leaf["carried"] if carried else None)
    return ops_of(impl).light_merge(*terms, norm, ending=out.ending)[0]


def run(
    impl: str, given: dict[str, Tensor], training: tuple[bool, bool], carried: bool = True, read: bool = False
) -> dict[str, Tensor]:
    """The block's output with its merge, and all gradients; `read`: somebody else reads the output too."""
    leaf = {name: one.detach().clone(memory_format=torch.preserve_format) for name, one in given.items()}
    wanted = [name for name in LEAVES if carried or name != "carried"]
    leaves = [leaf[name].requires_grad_() for name in wanted]
    out = ended(impl, leaf, training[0])
    made = merged(impl, leaf, out, training[1], carried)
    loss = (made * leaf["incoming"]).sum() + ((out.out * leaf["read"]).sum() if read else 0)
    gradients = torch.autograd.grad(loss, leaves)
    return {"out": made} | {f"d{name}": one for name, one in zip(wanted, gradients, strict=True)}


def check(
    device: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str, training: tuple[bool, bool], **how: bool
) -> None:
    maps = ("x", "s", "incoming", "read")
    check_fused(lambda impl, given: run(impl, given, training, **how), case(shape), maps, device, dtype, layout)


@pytest.mark.parametrize("shape", SIZES + BLOCKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_size_and_layout(device: str, shape: tuple[int, ...], layout: str):
    several = shape[0] * shape[2] * shape[3] > 1
    check(device, shape, torch.float64, layout, (several, several), carried=layout != "sliced")


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_precision(device: str, dtype: torch.dtype):
    skip_untaken(dtype, device)
    check(device, (2, 32, 4, 5), dtype, "channels_last", (True, True))


@pytest.mark.parametrize("training", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("read", [True, False])
def test_known_statistics_and_another_reader(device: str, training: tuple[bool, bool], read: bool):
    check(device, (2, 6, 3, 4), torch.float64, "channels_last", training, read=read)


def test_an_output_that_only_others_read(device: str):
    found = {}
    for impl in ("reference", "fused"):
        leaf = {name: one.to(device).requires_grad_(name in LEAVES) for name, one in case((2, 6, 3, 4)).items()}
        out = ended(impl, leaf, True)
        merged(impl, leaf, out, True, True)
        found[impl] = torch.autograd.grad(out.pool.square().sum(), [leaf[name] for name in "xswb"])
    for one, expected in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, expected)


def test_the_output_is_not_kept_by_its_merge(device: str):
    given = {name: one.float().to(device) for name, one in case((2, 6, 5, 4)).items()}
    leaf = {name: one.requires_grad_(name in LEAVES) for name, one in given.items()}
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda saved: saved):
        out = ended("fused", leaf, True)
        merged("fused", leaf, out, True, True)
    maps = {saved.data_ptr() for saved in kept if saved is not None and saved.shape == out.out.shape}
    assert out.out.data_ptr() not in maps
    assert len(maps) == 2 + (not runs_triton(out.out))  # x, s and, on a CPU, what the merge normalises
