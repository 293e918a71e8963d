"""The networks that mechanisms are tested in: a small one of every family, this project's own and timm's."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import timm
import torch
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.regnet import RegNet, RegNetCfg
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

import crosslayer
from crosslayer import create_model, graft, list_mechanisms
from crosslayer.fused.cpu import compiler
from crosslayer.mechanisms import lookup
from crosslayer.mechanisms.interface import looks_inside_attention
from crosslayer.models import blocks, resnet
from crosslayer.models.factory import mechanism_factory
from crosslayer.models.grafted_stage import fits_closed_blocks
from crosslayer.models.vit import layer_attention_vit

CLASSES = 7


class Host(NamedTuple):
    """A network that mechanisms are put in.

    Args:
        build: (mechanism, options) → network.
        sizes: images it must take, the first one small.
        maps: whether its last features are maps, channels first.
        grafted: whether it was built elsewhere: it must start as identity.
        fused: whether its mechanism runs in fused ops.
        unread: blocks whose map cannot reach the class token any more, which alone is classified.
    """

    build: Callable[..., nn.Module]
    sizes: tuple[tuple[int, int], ...]
    maps: bool = True
    grafted: bool = False
    unread: tuple[int, ...] = ()
    fused: bool = False

    def images(self, count: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
        """Noise of the first size."""
        return torch.randn(count, 3, *self.sizes[0], generator=torch.Generator().manual_seed(seed), dtype=dtype)


def own(build: Callable[..., nn.Module], mechanism: str, **options: Any) -> nn.Module:
    """One of this project's networks."""
    return build(CLASSES, mechanism_factory(mechanism, options))


def named(backbone: str, mechanism: str, **options: Any) -> nn.Module:
    """One that `create_model` knows."""
    return create_model(backbone, mechanism, num_classes=CLASSES, **options)


def large(classes: int, mechanism: Any) -> nn.Module:
    """A narrow ImageNet ResNet of four stages."""
    return resnet.ResNet(
        resnet.ResNetShape(blocks.Bottleneck, (2, 2, 2, 2), (8, 8, 16, 16), "large"), classes, mechanism
    )


def fused(build: Callable[..., nn.Module], mechanism: str, **options: Any) -> nn.Module:
    """A network whose mechanism runs in fused ops."""
    model = build(mechanism, **options)
    assert crosslayer.fuse(model).fused or mechanism == "none"
    return model


def elsewhere(plain: Callable[[], nn.Module], mechanism: str, **options: Any) -> nn.Module:
    """A network of timm, grafted; with `none` as it is."""
    model = plain()
    return model if mechanism == "none" else graft(model, mechanism, **options)


def residual(kind: Any, **arguments: Any) -> nn.Module:
    """A narrow ResNet of timm's."""
    return of_small_images(ResNet(kind, (2, 2, 1, 1), num_classes=CLASSES, channels=(16, 16, 24, 24), **arguments))


def mobile(family: Any, *stages: str) -> nn.Module:
    """An EfficientNet or MobileNet of a few narrow stages."""
    decoded = decode_arch_def([[stage] for stage in stages])
    return of_small_images(family(decoded, num_features=32, stem_size=8, num_classes=CLASSES))


def regnet() -> nn.Module:
    """A RegNet of five narrow blocks, two of them in the third stage."""
    return of_small_images(RegNet(RegNetCfg(depth=5, w0=8, wa=12.0, wm=2.0, group_size=8), num_classes=CLASSES))


def of_small_images(model: nn.Module) -> nn.Module:
    """Told of small images, so that looking for its stages is quick."""
    model.pretrained_cfg = {"input_size": (3, 64, 64)}
    return model


def small(name: str, size: int = 64, **arguments: Any) -> nn.Module:
    """A network that timm knows, made small."""
    return timm.create_model(
        name, num_classes=CLASSES, pretrained_cfg_overlay={"input_size": (3, size, size)}, **arguments
    )


FOREIGN: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, int], ...], bool]] = {
    "resnet": (partial(residual, BasicBlock), ((33, 33), (64, 41)), True),
    "resnext": (partial(residual, Bottleneck, cardinality=2, base_width=16), ((33, 33), (64, 41)), True),
    "convnext": (
        partial(small, "convnext_atto", depths=(2, 2, 1, 1), dims=(16, 16, 24, 24)),
        ((64, 64), (80, 65)),
        True,
    ),
    "efficientnet": (
        partial(mobile, EfficientNet, "ds_r1_k3_s1_e1_c8", "ir_r2_k3_s2_e2_c16", "ir_r3_k3_s2_e2_c24"),
        ((32, 32), (33, 48)),
        True,
    ),
    "regnet": (regnet, ((64, 64), (65, 96)), True),
    "mobilenetv3": (
        partial(mobile, MobileNetV3, "ds_r1_k3_s2_e1_c16_se0.25_nre", "ir_r2_k3_s2_e2_c24_se0.25", "cn_r1_k1_s1_c48"),
        ((32, 32), (33, 48)),
        True,
    ),
    "vit": (
        partial(small, "vit_tiny_patch16_224", img_size=(16, 24), patch_size=4, embed_dim=32, depth=6, num_heads=2,
                reg_tokens=2, global_pool="avg", dynamic_img_size=True),
        ((16, 24), (24, 32)),
        False,
    ),
    "swin": (
        partial(small, "swin_tiny_patch4_window7_224", img_size=32, embed_dim=16, depths=(2, 2), num_heads=(2, 2),
                window_size=4, drop_path_rate=0.0),
        ((32, 32),),
        False,
    ),
}  # fmt: skip

HOSTS = {
    "cifar_resnet20": Host(partial(named, "cifar_resnet20"), ((16, 16), (17, 23), (9, 40))),
    "cifar_resnet20_basic": Host(partial(named, "cifar_resnet20_basic"), ((16, 16), (17, 23), (9, 40))),
    "imagenet_resnet": Host(partial(own, large), ((64, 64), (65, 97))),
    "deit_sublayers": Host(
        partial(own, partial(layer_attention_vit, 64, 3, unit="sublayer")),
        ((48, 48), (33, 60)),
        maps=False,
        unread=(4, 5),
    ),
    "deit": Host(partial(own, partial(layer_attention_vit, 64, 6)), ((48, 48), (33, 60)), maps=False, unread=(5,)),
} | {
    f"timm_{name}": Host(partial(elsewhere, plain), sizes, maps, grafted=True)
    for name, (plain, sizes, maps) in FOREIGN.items()
}


if compiler.obstacle() is None:
    HOSTS |= {
        f"{name}_fused": HOSTS[name]._replace(build=partial(fused, HOSTS[name].build), fused=True)
        for name in ("cifar_resnet20", "imagenet_resnet", "timm_resnet")
    }

OPEN = ("cifar_resnet20", "imagenet_resnet")
"""Beginnings of the names of hosts whose blocks mechanisms may reach into."""
ATTENTIVE = ("deit", "timm_vit")
"""Hosts whose attention mechanisms may look inside of."""
FUSED = ("dla_b", "dla_l", "kcla", "mrla_b", "mrla_l")


def fits(host: str, mechanism: str) -> bool:
    """Whether a host can have a mechanism, and is another host with it."""
    if HOSTS[host].fused and mechanism not in FUSED:
        return False
    kind = lookup(mechanism).mechanism
    if looks_inside_attention(kind):
        return host in ATTENTIVE
    return host.startswith(OPEN) or fits_closed_blocks(kind)


RESNET_MECHANISMS = [name for name in list_mechanisms() if fits("cifar_resnet20", name)]
ATTENTION_MECHANISMS = [name for name in list_mechanisms() if name not in RESNET_MECHANISMS]


def is_core(host: str, mechanism: str) -> bool:
    """Whether a pair stands for others: every mechanism in one network of this project's, one of each kind anywhere."""
    own = "cifar_resnet20" if mechanism in RESNET_MECHANISMS else "deit"
    return host == own or mechanism in ("dla_l", "mrla_b") or (host == "timm_vit" and mechanism in ("se", "revit"))


def pairs() -> list[Any]:
    """Every host with every mechanism it can have; those that stand for no others are exhaustive."""
    found = [(host, mechanism) for host in HOSTS for mechanism in list_mechanisms() if fits(host, mechanism)]
    return [pytest.param(*pair, marks=() if is_core(*pair) else pytest.mark.exhaustive) for pair in found]


COMPILED = ("cifar_resnet20", "cifar_resnet20_fused", "deit", "timm_resnet", "timm_vit")
"""Hosts that stand for others where every mechanism is compiled."""


def compiled_pairs() -> list[Any]:
    """The same; a compilation takes seconds, so that fewer stand for the others, and all of them are slow."""

    def marks(host: str, mechanism: str) -> Any:
        if (host in COMPILED and mechanism == "dla_l") or (host == "cifar_resnet20" and mechanism in ("mrla_b", "se")):
            return ()
        return pytest.mark.exhaustive if host in COMPILED or mechanism == "dla_l" else pytest.mark.slow

    return [pytest.param(*pair.values, marks=marks(*pair.values)) for pair in pairs()]


def grafted_pairs() -> list[Any]:
    """Those of networks built elsewhere, in plain PyTorch."""
    return [pair for pair in pairs() if HOSTS[pair.values[0]].grafted and not HOSTS[pair.values[0]].fused]
