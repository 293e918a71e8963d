"""What tools that look at networks find in plain ones: modules that are called and return tensors."""

import copy
import pickle
import threading
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crosslayer import create_model, graft, list_mechanisms
from crosslayer.mechanisms import Mechanism
from tests.mechanisms.hosts import RESNET_MECHANISMS, fits

pytestmark = pytest.mark.sampled(4)

NOT_CALLED = (nn.Identity, nn.ParameterList, nn.ParameterDict, nn.ModuleList, Mechanism)
"""Holders of others, and places that a mechanism does not act in."""


deprecated = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")


def network(mechanism: str, backbone: str = "cifar_resnet20", **options) -> nn.Module:
    torch.manual_seed(0)
    return create_model(backbone, mechanism, num_classes=5, **options)


@pytest.mark.parametrize("mechanism", RESNET_MECHANISMS)
def test_every_module_is_called_and_returns_tensors(mechanism: str):
    model, called = network(mechanism).train(), set()
    within = {
        module for mechanisms in model.modules() if isinstance(mechanisms, Mechanism) for module in mechanisms.modules()
    }

    def note(module: nn.Module, given: tuple, out: object) -> None:
        called.add(module)
        assert isinstance(out, Tensor) or (module in within and isinstance(out, tuple)), type(module)

    handles = [module.register_forward_hook(note) for module in model.modules()]
    model(torch.randn(2, 3, 16, 16))
    for handle in handles:
        handle.remove()
    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    idle = [name for name, module in leaves if module not in called and not isinstance(module, NOT_CALLED)]
    assert [name for name in idle if mechanism != "gc" or not name.endswith(".gate")] == []  # timm's, for scaling
    assert all(m in called for m in (model.fc, *model.stages, *(b for s in model.stages for b in s.blocks)))


def test_gradients_at_blocks_and_stages_are_the_derivatives():
    model, x = network("dla_l").double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    seen = {}
    for name in ("stages.0.blocks.1", "stages.1"):
        model.get_submodule(name).register_forward_hook(lambda *call, name=name: seen.update({name: call[-1]}))
    loss = model(x).square().sum()
    for name, out in seen.items():
        (gradient,) = torch.autograd.grad(loss, out, retain_graph=True)
        direction = torch.randn_like(out)
        sides = []
        for step in (1e-5, -1e-5):
            other = copy.deepcopy(model)
            for module in other.modules():
                module._forward_hooks.clear()
            moved = step * direction
            other.get_submodule(name).register_forward_hook(lambda *call, moved=moved: call[-1] + moved)
            sides.append(other(x).square().sum())
        torch.testing.assert_close((gradient * direction).sum(), (sides[0] - sides[1]) / 2e-5, rtol=1e-6, atol=1e-6)


@deprecated
@pytest.mark.parametrize("mechanism", RESNET_MECHANISMS)
def test_second_derivatives_and_transforms(mechanism: str):
    model, x = network(mechanism).double().eval(), torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad is not None
    tangent = torch.randn_like(x)
    out, pushed = torch.func.jvp(model, (x.detach(),), (tangent,))
    rows = torch.func.jacrev(model)(x.detach())
    torch.testing.assert_close(torch.einsum("bkicyx,icyx->bk", rows, tangent), pushed)
    per_image = torch.func.vmap(lambda one: model(one[None])[0])(x.detach())
    torch.testing.assert_close(per_image, out)


@pytest.mark.compiled
@deprecated
@pytest.mark.parametrize(
    "mechanism",
    [
        pytest.param(m, marks=() if m in ("dla_l", "mrla_b", "se") else pytest.mark.exhaustive)
        for m in RESNET_MECHANISMS
    ],
)
def test_traces_by_fx_and_jit(mechanism: str):
    model, x = network(mechanism).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        if mechanism not in ("aa", "ba", "rla_g"):  # they look at shapes
            torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), expected)
        torch.testing.assert_close(torch.jit.trace(model, x)(x), expected)


def gradients(model: nn.Module, x: Tensor, run=None) -> list[Tensor]:
    model.zero_grad()
    (run or (lambda: model(x)))().square().mean().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("mechanism", RESNET_MECHANISMS)
def test_recomputed_activations_give_the_same_gradients(mechanism: str):
    model, x = network(mechanism).double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    kept = gradients(model, x)
    model.set_grad_checkpointing()
    torch.testing.assert_close(gradients(model, x), kept)
    model.set_grad_checkpointing(False)
    torch.testing.assert_close(gradients(model, x, lambda: checkpoint(model, x, use_reentrant=False)), kept)
    again = x.clone().requires_grad_()
    torch.testing.assert_close(gradients(model, x, lambda: checkpoint(model, again, use_reentrant=True)), kept)


HOST_OF = {"resnet18": "timm_resnet", "vit_tiny_patch16_224": "timm_vit", "convnext_atto": "timm_convnext"}
GRAFTED = [(name, backbone) for backbone, host in HOST_OF.items() for name in list_mechanisms() if fits(host, name)]


@pytest.mark.parametrize(("mechanism", "backbone"), GRAFTED)
def test_recomputed_activations_in_a_graft(mechanism: str, backbone: str):
    torch.manual_seed(0)
    options = {"img_size": 32, "depth": 4, "embed_dim": 48} if "vit" in backbone else {}
    plain = timm.create_model(backbone, num_classes=3, pretrained_cfg_overlay={"input_size": (3, 64, 64)}, **options)
    model = graft(plain, mechanism, start="published").double()
    x = torch.randn(2, 3, *((32, 32) if "vit" in backbone else (64, 64)), dtype=torch.float64)
    kept = gradients(model, x)
    model.set_grad_checkpointing(True)
    torch.testing.assert_close(gradients(model, x), kept)


@pytest.mark.parametrize("mechanism", ["dla_l", "dla_b", "mrla_l", "mrla_b"])
def test_a_pass_goes_on_twice(mechanism: str):
    """Two heads on shared blocks: gradients are those of two passes added."""
    stage = network(mechanism, "cifar_resnet29").double().stages[0]
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)

    def of(*losses: Callable[[Tensor], Tensor]) -> list[Tensor]:
        stage.zero_grad()
        depth = stage.begin(x)
        shared = stage.blocks[0](x, depth)
        passes = [depth.fork() for _ in losses[1:]] + [depth]
        total = sum(loss(stage.blocks[1](shared, one)) for loss, one in zip(losses, passes, strict=True))
        total.backward()
        return [p.grad.clone() for p in stage.parameters() if p.grad is not None]

    def squares(out: Tensor) -> Tensor:
        return out.square().sum()

    def sines(out: Tensor) -> Tensor:
        return out.sin().sum()

    both = [a + b for a, b in zip(of(squares), of(sines), strict=True)]
    torch.testing.assert_close(of(squares, sines), both)
    depth = stage.begin(x)
    stage.blocks[1](stage.blocks[0](x, depth), depth)
    with pytest.raises(RuntimeError, match="block 0 of a stage was run where block 2 is next"):
        stage.blocks[0](x, depth)


def test_blocks_of_grafts_and_transformers_are_blocks():
    grafted = graft(
        timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, embed_dim=48, num_classes=3), "dla_l"
    )
    own = network("mrla_l", "deit_tiny")
    for model in (grafted, own):
        assert all(hasattr(block, "attn") for block in model.blocks)
        assert hasattr(model.blocks[1], "mlp")
    with pytest.raises(RuntimeError, match="block 1 of a stage with DLALight was called by itself"):
        grafted.blocks[1](torch.randn(1, 5, 48))


def test_copies_and_pickles_are_whole():
    grafted = graft(timm.create_model("resnet18", num_classes=3), "dla_l", start="published").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for other in (copy.deepcopy(grafted), pickle.loads(pickle.dumps(grafted))):
            assert torch.equal(other(x), grafted(x))
            for parameter in other.parameters():
                parameter.zero_()
            assert not torch.equal(other(x), grafted(x))


def test_threads_share_a_graft():
    grafted = graft(timm.create_model("resnet18", num_classes=3), "dla_b", start="published").eval()
    images = [torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    with torch.no_grad():
        expected, made = [grafted(x) for x in images], {}
        run = [threading.Thread(target=lambda i=i: made.update({i: inference(grafted, images[i])})) for i in range(4)]
        for thread in run:
            thread.start()
        for thread in run:
            thread.join()
    for i in range(4):
        torch.testing.assert_close(made[i], expected[i])


@torch.no_grad()
def inference(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)
