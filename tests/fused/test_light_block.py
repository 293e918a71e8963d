"""A whole block's end with light layer attention in one op, against the float64 reference made of single ops."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from crosslayer.fused.batch_norm import BatchNorm
from crosslayer.fused.light_block import LightAttention, light_block_reason
from crosslayer.fused.light_block import autograd as fused
from crosslayer.fused.light_block import cpu as light_block_passes
from tests.fused.maps import LAYOUTS, SIZES, TOLERANCE, assert_close, laid_out, noise, skip_untaken
from tests.fused.reference import ops_of

pytestmark = [pytest.mark.sampled(5), pytest.mark.usefixtures("native", "poisoned", "nothing_learned")]

BLOCKS = [(3, 70, 2, 1), (2, 64, 3, 3), (20, 6, 2, 3)]
"""Blocks of channels that are not full, and that are; more images than a register has numbers."""
FORMS = {"dla": (True, True), "dla as printed": (True, False), "mrla": (False, False)}
"""Whether there is a cell, and a stage's kernel."""


@pytest.fixture
def nothing_learned():
    """Gradients are off, as the op asks for."""
    with torch.no_grad():
        yield


def case(shape: tuple[int, ...], form: str = "dla", known: bool = True, pending: bool = False) -> dict[str, Any]:
    """Everything `light_block` is given; the blocks before are known, or there are none.

    With `pending`, the shortcut is still to be normalised.
    """
    draw, (batch, channels) = noise(), shape[:2]
    has_cell, has_stage_kernel = FORMS[form]
    squeezed = max(1, channels // 4)

    def norm() -> BatchNorm:
        rows = (1 + draw(channels) / 4, draw(channels) / 2, draw(channels) / 4, draw(channels) ** 2 + 1)
        return BatchNorm(*rows, False, 0.1, 1e-5)

    def net() -> list[Tensor]:
        sizes = ((squeezed, channels), (squeezed,), (3 * channels, squeezed), (3 * channels,))
        return [draw(*size) / 2 for size in sizes]

    head_channels = next(d for d in (3, 2, 1) if channels % d == 0)
    stage_kernel = draw(channels, 1, 3, 3) if has_stage_kernel else None
    weights = (draw(1, 1, 5), draw(1, 1, 5), draw(channels, 1, 3, 3), head_channels, draw(channels), stage_kernel)
    attention = LightAttention(*weights, [*net(), *net()] if has_cell else None, norm())
    given = {"convolved": draw(*shape), "shortcut": draw(*shape), "norm": norm(), "attention": attention}
    if pending:
        given["shortcut_norm"] = norm()
    if known and has_cell and not pending:
        given["shortcut_pool"] = given["shortcut"].mean((2, 3))
        given["context"] = (draw(batch, 3 * channels), draw(batch, channels))
    return given


def changed(given: Any, change: Any) -> Any:
    """Every tensor changed, wherever it stands."""
    if isinstance(given, Tensor):
        return change(given)
    if isinstance(given, dict):
        return {name: changed(one, change) for name, one in given.items()}
    if isinstance(given, list):
        return [changed(one, change) for one in given]
    if not isinstance(given, tuple):
        return given
    parts = [changed(one, change) for one in given]
    return type(given)(*parts) if hasattr(given, "_fields") else tuple(parts)


def cast(given: dict[str, Any], dtype: torch.dtype, layout: str = "channels_last") -> dict[str, Any]:
    """Maps in a dtype and layout, what is small in one at least float32; a known pool is that of the shortcut."""
    narrow = dtype if dtype == torch.float64 else torch.float32
    made = changed(given, lambda one: one.to(narrow))
    maps = {name: laid_out(given[name].to(dtype), layout) for name in ("convolved", "shortcut")}
    if "shortcut_pool" in given:
        maps["shortcut_pool"] = given["shortcut_pool"].to(dtype)
    return made | maps


def run(impl: Any, given: dict[str, Any]) -> dict[str, Tensor]:
    """All that comes out."""
    made = ops_of(impl).light_block(**given)
    named = {"out": made.out, "pool": made.pool, "gate": made.gate, "carried": made.carried}
    return named | ({} if made.context is None else dict(zip(("recalled", "memory"), made.context, strict=True)))


def check(given: dict[str, Any], dtype: torch.dtype = torch.float64, layout: str = "channels_last") -> None:
    given = cast(given, dtype, layout)
    expected, found = run("reference", cast(given, torch.float64)), run("fused", given)
    assert found.keys() == expected.keys()
    assert found["out"].dtype == dtype
    assert found["out"].stride() == laid_out(expected["out"], "contiguous" if layout == "sliced" else layout).stride()
    for name, one in found.items():
        assert_close(one, expected[name], dtype, name)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many images went together, in every call of the op; there has to be one."""
    chunks: list[int] = []
    chunk = light_block_passes.chunk

    def noted(*args: Any) -> int:
        chunks.append(chunk(*args))
        return chunks[-1]

    monkeypatch.setattr(light_block_passes, "chunk", noted)
    yield chunks
    assert chunks


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize("shape", SIZES + BLOCKS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("known", [True, False])
def test_a_shortcut_that_is_not_normalised_yet(shape: tuple[int, ...], form: str, known: bool):
    check(case(shape, form, known, pending=True))


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize("shape", SIZES + BLOCKS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_every_size_and_layout(shape: tuple[int, ...], layout: str, form: str):
    check(case(shape, form), layout=layout)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("form", FORMS)
def test_every_precision(dtype: torch.dtype, form: str):
    skip_untaken(dtype, "cpu")
    check(case((3, 70, 3, 4), form), dtype)


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_nothing_known_of_the_blocks_before(dtype: torch.dtype):
    check(case((3, 6, 5, 7), known=False), dtype)


@pytest.mark.parametrize(("images", "size"), [(1, 1), (2, 2 * 6 * 5 * 7 * 8)])
def test_chunks_that_do_not_divide_the_batch(monkeypatch: pytest.MonkeyPatch, taken: list[int], images: int, size: int):
    monkeypatch.setattr(light_block_passes, "CHUNK_BYTES", size)
    check(case((5, 6, 5, 7), "mrla"))
    check(case((5, 6, 50, 7)))
    assert taken == [images, 1]


def test_what_a_cell_is_read_for(taken: list[int]):
    check(case((3, 2, 1, 1)))
    check(case((9, 70, 1, 1)), torch.float32)
    assert taken == [3, 9]


def test_threads_share_the_images(monkeypatch: pytest.MonkeyPatch, taken: list[int]):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    check(case((4, 6, 5, 7)))
    check(case((3, 6, 5, 7)))
    assert taken == [2, 1]


def reason(given: dict[str, Any]) -> str:
    return light_block_reason(*(given[name] for name in ("convolved", "shortcut", "norm", "attention"))) or ""


def test_what_is_left_to_single_ops(monkeypatch: pytest.MonkeyPatch):
    given = cast(case((2, 6, 5, 7)), torch.float32)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert reason(given) == ""
    with torch.enable_grad():
        assert reason(given) == "gradients are on"
    assert "training mode" in reason(given | {"norm": given["norm"]._replace(training=True)})
    assert "the shortcut is in torch.float64" in reason(given | {"shortcut": given["shortcut"].double()})
    wide = given["attention"]._replace(value=torch.ones(6, 1, 5, 3))
    assert "a depth-wise kernel is 5×3" in reason(given | {"attention": wide})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert reason(given) == "there are fewer images than threads"


def test_large_numbers_saturate():
    given = case((2, 6, 5, 7))
    given["attention"] = changed(given["attention"], lambda one: one * 50)
    check(given)
    check(given, torch.float32)


def test_what_is_no_number_is_not_hidden():
    given = cast(case((2, 6, 5, 4)), torch.float32)
    given["convolved"][1, 0, 2, 2] = torch.nan
    found, expected = run("fused", given), run("reference", given)
    for name, one in found.items():
        assert torch.equal(one.isnan(), expected[name].isnan()), name
    assert found["out"][1].isnan().any()
    assert not found["out"][0].isnan().any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_op_is_well_registered(monkeypatch: pytest.MonkeyPatch, form: str, layout: str, dtype: torch.dtype):
    given, arguments = cast(case((2, 6, 2, 2), form, pending=dtype == torch.float32), dtype, layout), []
    with monkeypatch.context() as patched:
        patched.setattr(fused, "light_block", lambda *args: arguments.append(args) or [torch.zeros(1)] * 6)
        run("fused", given)
    torch.library.opcheck(fused.light_block, arguments[0])


def test_closed_gates_are_zero_and_no_numbers_that_are_slow_to_multiply_with():
    given = cast(case((20, 6, 5, 4)), torch.float32)
    given["attention"] = given["attention"]._replace(query=1000 * given["attention"].query)
    gates = run("fused", given)["gate"]
    assert ((gates == 0) | (gates >= torch.finfo(torch.float32).tiny)).all()
    assert (gates == 0).any()
