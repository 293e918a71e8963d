"""Fused models give the plain model's results, or one sentence before any number is wrong: what tools do to them."""

import copy
import pickle
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import crosslayer
from crosslayer.fused.cpu import compiler
from crosslayer.mechanisms.depth_pass import DepthPass
from tests.cases import each_once, only

FUSED = ["dla_b", "dla_l", "kcla", "mrla_b", "mrla_l"]
every_mechanism = pytest.mark.parametrize("mechanism", FUSED)
pytestmark = pytest.mark.skipif(compiler.obstacle() is not None, reason="no C++ compiler here")


def network(mechanism: str, backbone: str = "cifar_resnet20", **options) -> nn.Module:
    """In float64 and channels-last, with mechanisms far from their start."""
    torch.manual_seed(0)
    model = crosslayer.create_model(backbone, mechanism, num_classes=5, **options).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "cell" in name or "lambda" in name:
                parameter.mul_(3)
    return model.to(memory_format=torch.channels_last)


def pair(mechanism: str, **options) -> tuple[nn.Module, nn.Module]:
    """A plain model and its fused copy."""
    plain = network(mechanism, **options)
    fused = copy.deepcopy(plain)
    assert crosslayer.fuse(fused).fused
    return plain, fused


def images(count: int = 3, seed: int = 1) -> Tensor:
    x = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(memory_format=torch.channels_last)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close(ours: object, theirs: object) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def same_training(plain: nn.Module, fused: nn.Module, run: Callable[[nn.Module], Tensor]) -> None:
    """Outputs, gradients, running statistics.

    Gradients are in units of each parameter's largest: a small difference of large terms has the rounding of these.
    """
    out, expected = run(fused), run(plain)
    close(out, expected)
    theirs = gradients(plain, expected.square().mean())
    largest = {name: gradient.abs().max().clamp(min=1) for name, gradient in theirs.items()}
    ours = gradients(fused, out.square().mean())
    close(
        {name: g / largest[name] for name, g in ours.items()}, {name: g / largest[name] for name, g in theirs.items()}
    )
    close(dict(fused.named_buffers()), dict(plain.named_buffers()))


@pytest.mark.parametrize("backbone", ["cifar_resnet20", "cifar_resnet20_basic"])
@pytest.mark.parametrize("training", [True, False])
@every_mechanism
@pytest.mark.sampled(2)
def test_the_same_numbers(mechanism: str, training: bool, backbone: str):
    plain, fused = pair(mechanism, backbone=backbone)
    same_training(plain.train(training), fused.train(training), lambda model: model(images()))
    with torch.no_grad():
        close(fused.eval()(images(4)), plain.eval()(images(4)))
    with torch.inference_mode():
        close(fused(images(4)), plain(images(4)))


@every_mechanism
def test_drop_path_drops_the_same_images(mechanism: str):
    plain, fused = pair(mechanism, drop_path=0.5)

    def run(model: nn.Module) -> Tensor:
        torch.manual_seed(3)
        return model(images(6))

    same_training(plain, fused, run)


@pytest.mark.parametrize("training", [True, False])
@every_mechanism
def test_gradients_at_every_block_and_stage(mechanism: str, training: bool):
    """By autograd.grad, and by hooks on tensors, as Grad-CAM and auxiliary losses take them."""
    of = {}
    for model in pair(mechanism):
        kept: dict[str, Tensor] = {}
        hooked: dict[str, Tensor] = {}
        for name, module in model.train(training).named_modules():
            if name.endswith(("blocks.0", "blocks.1")) or name in ("stages.0", "stages.1"):
                module.register_forward_hook(lambda *call, name=name, kept=kept: kept.update({name: call[-1]}))
        logits = model(images())
        for name, out in kept.items():
            out.register_hook(lambda g, name=name, hooked=hooked: hooked.update({name: g.clone()}))
        loss = logits.square().sum() + sum(out.sin().mean() for out in kept.values())
        asked = torch.autograd.grad(loss, list(kept.values()), retain_graph=True)
        loss.backward()
        of[model] = dict(zip(kept, asked, strict=True)), hooked
        close(of[model][1], of[model][0])
    close(*[of_model[0] for of_model in of.values()])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reentrant", [True, False])
@every_mechanism
@pytest.mark.sampled(2)
def test_checkpointed(mechanism: str, reentrant: bool, training: bool):
    plain, fused = (model.train(training) for model in pair(mechanism))
    x = images().requires_grad_()
    same_training(plain, fused, lambda model: checkpoint(model, x, use_reentrant=reentrant))
    for model in (plain, fused):
        model.set_grad_checkpointing()
    same_training(plain, fused, lambda model: model(x))


def packed(tensor: Tensor) -> Tensor:
    """As save_on_cpu(pin_memory=True) does: the memory format is lost."""
    copied = torch.empty(tensor.size(), dtype=tensor.dtype, layout=tensor.layout)
    return copied.copy_(tensor)


@every_mechanism
def test_saved_tensor_hooks(mechanism: str):
    plain, fused = pair(mechanism)
    expected = gradients(plain, plain(images()).square().mean())
    for context in (
        torch.autograd.graph.saved_tensors_hooks(packed, lambda tensor: tensor),
        torch.autograd.graph.save_on_cpu(),
    ):
        with context:
            out = fused(images())
        close(gradients(fused, out.square().mean()), expected)


@every_mechanism
def test_second_derivatives_are_refused_at_once(mechanism: str):
    _, fused = pair(mechanism)
    x = images().requires_grad_()
    with pytest.raises(RuntimeError, match=r"a fused model has no second derivatives.*crosslayer\.unfuse\(model\)"):
        torch.autograd.grad(fused(x).sum(), x, create_graph=True)
    crosslayer.unfuse(fused)
    torch.autograd.grad(fused(x).sum(), x, create_graph=True)[0].square().sum().backward()


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@every_mechanism
@pytest.mark.sampled(2)
def test_transforms_of_functions(mechanism: str):
    plain, fused = (model.eval() for model in pair(mechanism))
    x, tangent = images(2), images(2, seed=5)
    parameters = {name: p.detach() for name, p in plain.named_parameters()}

    def loss(p: dict[str, Tensor], one: Tensor, model: nn.Module) -> Tensor:
        return torch.func.functional_call(model, p, (one[None],)).square().sum()

    made = []
    for model in (fused, plain):
        per_image = torch.func.vmap(torch.func.grad(lambda p, one, m=model: loss(p, one, m)), (None, 0))(parameters, x)
        made.append(
            (
                torch.func.vmap(lambda one, m=model: m(one[None])[0])(x),
                torch.func.jvp(model, (x,), (tangent,)),
                torch.func.jacrev(model)(x),
                per_image,
            )
        )
    close(*made)
    with torch.autograd.forward_ad.dual_level():
        tangents = [
            torch.autograd.forward_ad.unpack_dual(model(torch.autograd.forward_ad.make_dual(x, tangent))).tangent
            for model in (fused, plain)
        ]
    close(*tangents)
    close(tangents[0], made[0][1][1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@every_mechanism
def test_autocast_within(mechanism: str, dtype: torch.dtype):
    """Switched on inside, and over models that are in another precision themselves."""
    plain, fused = (model.to(dtype) for model in pair(mechanism))
    x = images().to(dtype)

    def half_way(model: nn.Module) -> Tensor:
        x_ = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        for index, stage in enumerate(model.stages):
            with torch.autocast("cpu", torch.bfloat16) if index == 1 else nullcontext():
                x_ = stage(x_.to(dtype))
        return x_.mean((2, 3))

    with torch.autocast("cpu", torch.bfloat16):
        outs = [model(x).float() for model in (fused, plain)]
    scale = outs[1].norm()
    assert (outs[0] - outs[1]).norm() < 0.05 * scale
    halves = [half_way(model).float() for model in (fused, plain)]
    assert (halves[0] - halves[1]).norm() < 0.05 * halves[1].norm()


def frozen(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def without_bias(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.BatchNorm2d(child.num_features, bias=False, dtype=torch.float64))


def cumulative(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None


def grouped(model: nn.Module) -> None:
    for stage in model.stages:
        stage.blocks[1].bn3 = nn.GroupNorm(2, stage.channels, dtype=torch.float64)
        stage.mechanism.branches[0][0] = nn.GroupNorm(2, stage.channels, dtype=torch.float64)


def spectral(model: nn.Module) -> None:
    for stage in model.stages:
        torch.manual_seed(0)
        parametrizations.spectral_norm(stage.mechanism.projections[1].value)
        parametrizations.weight_norm(stage.mechanism.projections[0].value)


def pruned(model: nn.Module) -> None:
    for stage in model.stages:
        for module in (stage.blocks[0].bn3, stage.mechanism.branches[0][0], stage.mechanism.projections[1].value):
            torch.manual_seed(0)
            prune.random_unstructured(module, "weight", amount=0.3)


def lower_rank(model: nn.Module) -> None:
    """An adapter beside the value's convolution, as LoRA has it."""
    for stage in model.stages:
        value = stage.mechanism.projections[1].value
        torch.manual_seed(0)
        beside = nn.Conv2d(value.in_channels, value.out_channels, 1, bias=False, dtype=torch.float64)
        stage.mechanism.projections[1].value = Sum(value, beside)


class Sum(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return sum(part(x) for part in self.parts)


def listened_to(model: nn.Module) -> None:
    """Hooks on modules that ops stand in for: they run, and what they return counts."""
    for stage in model.stages:
        stage.blocks[0].bn3.register_forward_hook(lambda *call: call[-1] * 1.5)
        stage.mechanism.branches[1].register_forward_hook(lambda *call: call[-1] + 0.25)
        stage.mechanism.projections[1].value.register_forward_pre_hook(lambda _, given: (given[0] * 2,))


def in_place(model: nn.Module) -> None:
    """A block's output is changed after the block has made its pool."""
    for stage in model.stages:
        for block in stage.blocks:
            block.register_forward_hook(lambda *call: call[-1].add_(2))


CHANGES = [frozen, without_bias, cumulative, grouped, spectral, pruned, lower_rank, listened_to, in_place]


@pytest.mark.parametrize(
    ("change", "mechanism"), each_once(CHANGES, FUSED, core=lambda _, mechanism: mechanism == "dla_l")
)
def test_changed_networks(mechanism: str, change: Callable[[nn.Module], None]):
    plain, fused = pair(mechanism)
    for model in (plain, fused):
        change(model)
    for _ in range(2):
        same_training(plain, fused, lambda model: model(images()))
    with torch.no_grad():
        close(fused.eval()(images()), plain.eval()(images()))
        for model in (plain, fused):
            for name, parameter in model.named_parameters():
                if name.endswith(("weight", "weight_orig", "original0", "original1", "original")):
                    parameter.mul_(1.5)  # as an optimizer or load_state_dict would
        close(fused(images()), plain(images()))
    with torch.inference_mode():
        close(fused(images()), plain(images()))


@every_mechanism
def test_nan_stays_in_its_image(mechanism: str):
    _, fused = pair(mechanism)
    x = images(4)
    x[1, 0, 3, 3] = torch.nan
    for context in (torch.no_grad(), nullcontext()):
        with context:
            out = fused.eval()(x)
        assert out[1].isnan().all()
        close(out[[0, 2, 3]], fused(images(4))[[0, 2, 3]])
    assert fused.train()(x).isnan().all()


@pytest.mark.parametrize("modes", [(True, True), (False, False), (True, False), (False, True)])
@every_mechanism
@pytest.mark.sampled(2)
def test_two_passes_before_their_backwards(mechanism: str, modes: tuple[bool, bool]):
    """As one after the other; running statistics stay, since PyTorch's own batch_norm reads them again backward."""
    plain, fused = pair(mechanism)
    for module in (*plain.modules(), *fused.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    first = fused.train(modes[0])(images(seed=1))
    second = fused.train(modes[1])(images(seed=2))
    ours = gradients(fused, first.square().mean() + second.sin().mean())
    apart = gradients(plain, plain.train(modes[0])(images(seed=1)).square().mean())
    after = gradients(plain, plain.train(modes[1])(images(seed=2)).sin().mean())
    close(ours, {name: gradient + after[name] for name, gradient in apart.items()})


@every_mechanism
def test_two_heads_on_shared_blocks(mechanism: str):
    made = []
    for model in pair(mechanism, backbone="cifar_resnet29"):
        stage, x = (
            model.stages[1],
            torch.randn(2, 64, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        )
        depth = stage.begin(x.to(memory_format=torch.channels_last))
        shared = stage.blocks[0](x.to(memory_format=torch.channels_last), depth)
        heads = []
        for one in (depth.fork(), depth):
            heads.append(stage.blocks[2](stage.blocks[1](shared, one), one))
        made.append(gradients(stage, heads[0].square().mean() + heads[1].sin().mean()))
    close(*made)


@every_mechanism
@pytest.mark.sampled(2)
def test_operations_are_counted(mechanism: str):
    counts = []
    for model in pair(mechanism):
        for training in (True, False):
            with FlopCounterMode(display=False) as counter:
                model.train(training)(images()).sum().backward()
            counts.append(counter.get_total_flops())
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                model(images(8))
            counts.append(counter.get_total_flops())
    assert counts[:4] == counts[4:]


@every_mechanism
def test_profiler_names_the_ops(mechanism: str):
    _, fused = pair(mechanism)
    with torch.profiler.profile() as profile:
        fused(images()).sum().backward()
    assert any(event.key.startswith("crosslayer::") for event in profile.key_averages())


@every_mechanism
def test_copies_stay_fused_and_states_stay_the_same(mechanism: str):
    plain, fused = pair(mechanism)
    assert list(plain.state_dict()) == list(fused.state_dict())
    averaged = torch.optim.swa_utils.AveragedModel(fused, torch.device("cpu"))
    for copied in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), averaged.module):
        assert copied.stages[0].pass_type is fused.stages[0].pass_type is not DepthPass
        close(copied(images()), plain(images()))
    crosslayer.unfuse(fused)
    assert fused.stages[0].pass_type is DepthPass


def test_a_report_says_what_and_why():
    model = crosslayer.create_model("cifar_resnet20", "dla_l", num_classes=3)
    model.stages[1].mechanism.branches[0][0] = nn.GroupNorm(2, model.stages[1].channels)
    report = str(crosslayer.fuse(model)).splitlines()
    assert report[0] == "stages.0: DLALight, 2 of 2 blocks fused"
    assert report[1].startswith(
        "stages.1: DLALight, 1 of 2 blocks fused: a BatchNorm2d has been exchanged for a GroupNorm"
    )
    assert "no executor" in str(crosslayer.fuse(crosslayer.create_model("cifar_resnet20", "se", num_classes=3)))
    assert "no stage" in str(crosslayer.fuse(nn.Linear(2, 2)))


class Wrapped(Tensor):
    """A tensor of a class of its own, as quantisers have them."""


@every_mechanism
def test_tensors_of_other_classes(mechanism: str):
    plain, fused = pair(mechanism)
    x = images().as_subclass(Wrapped)
    with warnings.catch_warnings():
        close(fused(x).as_subclass(Tensor), plain(x).as_subclass(Tensor))


@pytest.mark.compiled
@pytest.mark.parametrize("training", only([True, False], bool))
@pytest.mark.parametrize("mechanism", only(FUSED, lambda mechanism: mechanism == "dla_l"))
def test_compiles_as_one_graph(mechanism: str, training: bool):
    plain, fused = (model.train(training) for model in pair(mechanism))
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
    same_training(plain, fused, lambda model: compiled(images()) if model is fused else model(images()))
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            close(compiled(images()), plain(images()))


@pytest.mark.compiled
@pytest.mark.parametrize("change", only([in_place, listened_to], lambda change: change is in_place))
def test_changed_networks_compiled(change: Callable[[nn.Module], None]):
    plain, fused = pair("dla_l")
    for model in (plain, fused):
        change(model)
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
    same_training(plain, fused, lambda model: compiled(images()) if model is fused else model(images()))


@pytest.mark.compiled
@every_mechanism
def test_exports_what_others_understand(mechanism: str):
    plain, fused = (model.eval() for model in pair(mechanism))
    exported = torch.export.export(fused, (images(),))
    assert not any("crosslayer" in str(node.target) for node in exported.graph.nodes)
    close(exported.module()(images()), plain(images()))


@pytest.mark.parametrize(("mechanism", "start"), each_once(FUSED, ["identity", "published"]))
def test_grafts(mechanism: str, start: str):
    import timm

    torch.manual_seed(0)
    base = timm.create_model("resnet18", num_classes=3, pretrained_cfg_overlay={"input_size": (3, 64, 64)}).double()
    plain = crosslayer.graft(base, mechanism, start=start)
    fused = copy.deepcopy(plain)
    assert crosslayer.fuse(fused).fused
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64).to(memory_format=torch.channels_last)
    same_training(plain, fused, lambda model: model(x))
    with torch.no_grad():
        close(fused.eval()(x), plain.eval()(x))


@pytest.fixture
def one_process(tmp_path: Path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@every_mechanism
@pytest.mark.sampled(2)
def test_data_parallel(mechanism: str, how: str, one_process: None):
    from torch.distributed.fsdp import fully_shard

    plain = network(mechanism).to(memory_format=torch.contiguous_format)
    fused = copy.deepcopy(plain)
    assert crosslayer.fuse(fused, channels_last=how == "ddp").fused
    if how == "ddp":
        wrapped: nn.Module = nn.parallel.DistributedDataParallel(fused)
    else:
        for stage in fused.stages:
            fully_shard(stage)
        wrapped = fully_shard(fused)
    out, expected = wrapped(images()), plain(images())
    close(out, expected)
    out.square().mean().backward()
    theirs = gradients(plain, expected.square().mean())
    for name, parameter in fused.named_parameters():
        gradient = parameter.grad
        close(gradient.full_tensor() if how == "fsdp" else gradient, theirs[name])


def test_detectors():
    torch.manual_seed(0)
    plain = crosslayer.create_detector("faster_rcnn", "resnet18", "dla_l", num_classes=3, min_size=64, max_size=96)
    fused = copy.deepcopy(plain)
    report = crosslayer.fuse(fused)
    assert [stage.fused for stage in report.stages] == [2, 2, 2, 2]
    x = torch.randn(2, 3, 64, 64)
    for ours, theirs in zip(fused.backbone(x).values(), plain.backbone(x).values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
