"""What is measured: every configuration is one row, and a group holds those that are compared with each other."""

import dataclasses
import itertools
from typing import Annotated, Literal

import tyro

from crosslayer.benchmark.networks import default_image_size

Mode = Literal["train", "infer"]
Precision = Literal["fp32", "bf16"]
Compiled = Literal["eager", "compiled"]
Impl = Literal["fused", "plain"]
Runtime = Literal["torch", "onnxruntime", "openvino"]
PLAIN = "none"
"""The mechanism of the plain network."""


def how_run(compiled: str, impl: str, runtime: str) -> str:
    """What runs a network, in words: a program of another runtime is neither compiled nor fused."""
    return f"{compiled} {impl}" if runtime == "torch" else runtime


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One row: a network and how it is run."""

    backbone: str
    mechanism: str
    mode: Mode
    precision: Precision
    compiled: Compiled
    impl: Impl
    runtime: Runtime
    batch_size: int
    image_size: int
    num_classes: int
    channels_last: bool
    device: str

    def __str__(self) -> str:
        return (
            f"{self.backbone} + {self.mechanism}, {self.mode}, {self.precision}, {self.how}, "
            f"batch {self.batch_size}, {self.image_size}×{self.image_size}"
        )

    @property
    def how(self) -> str:
        """What runs it."""
        return how_run(self.compiled, self.impl, self.runtime)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every combination of backbones, mechanisms and ways to run them; the plain network is always among them."""

    backbones: tuple[str, ...] = ("cifar_resnet20",)
    """Networks: of `crosslayer list`, timm:NAME (a mechanism is grafted on) or torchvision:NAME (plain)."""
    mechanisms: tuple[str, ...] = ("dla_l",)
    """Mechanisms (`crosslayer list`); `none` is measured anyway."""
    baseline: str | None = None
    """Backbone of the plain network that all others are compared with [default: each its own]."""
    modes: tuple[Mode, ...] = ("train", "infer")
    """Training steps, inference."""
    precisions: tuple[Precision, ...] = ("fp32",)
    """Arithmetic; bf16 is automatic mixed precision."""
    compiled: tuple[Compiled, ...] = ("eager",)
    """Without torch.compile, with it, or both."""
    impls: tuple[Impl, ...] = ("fused",)
    """By fused ops (`crosslayer.fuse`), in plain PyTorch, or both."""
    runtimes: Annotated[tuple[Runtime, ...], tyro.conf.arg(aliases=["--runtime"])] = ("torch",)
    """PyTorch, or another that runs the exported program: inference in fp32 on the CPU, and nothing else."""
    batch_sizes: tuple[int, ...] = (64,)
    """Images per step."""
    image_sizes: tuple[int, ...] = ()
    """Sides of the square images, in pixels [default: the backbone's own]."""
    num_classes: int = 100
    """Outputs of the classifier."""
    channels_last: bool = True
    """Memory format of maps and kernels."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int | None = None
    """Threads on the CPU [default: PyTorch's choice]."""
    rounds: int = 5
    """How often every configuration of a group has its turn."""
    seconds: float = 1.0
    """Length of a turn."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """What the configurations of a group differ by."""

    backbone: str
    mechanism: str
    compiled: Compiled
    impl: Impl


Group = tuple[Configuration, ...]


def groups(plan: Plan, device: str) -> list[Group]:
    """Groups of configurations that are compared, each led by the plain network's.

    Those of a group differ in mechanism, compilation and implementation only, and in the backbone where the plan
    has a baseline of another name. What a runtime cannot do (training, bf16) is left out.
    """
    every = [
        tuple(
            Configuration(
                **dataclasses.asdict(variant),
                mode=mode,
                precision=precision,
                runtime=runtime,
                batch_size=batch_size,
                image_size=image_size,
                num_classes=plan.num_classes,
                channels_last=plan.channels_last,
                device=device,
            )
            for variant in variants(plan, backbone, runtime)
        )
        for backbone, runtime, mode, precision, batch_size in itertools.product(
            plan.backbones, plan.runtimes, plan.modes, plan.precisions, plan.batch_sizes
        )
        if runtime == "torch" or (mode == "infer" and precision == "fp32")
        for image_size in plan.image_sizes or (default_image_size(backbone),)
    ]
    return list(dict.fromkeys(every))


def variants(plan: Plan, backbone: str, runtime: Runtime) -> list[Variant]:
    """The plain network as compared with, the backbone's own if asked for, then every mechanism's; each once."""
    if runtime != "torch":  # which run one program of a network
        plan = dataclasses.replace(plan, compiled=("eager",), impls=("plain",))
    plains = [plan.baseline or backbone, *([backbone] if PLAIN in plan.mechanisms else [])]
    plain = [Variant(name, PLAIN, compiled, "plain") for name in plains for compiled in plan.compiled]
    others = [
        Variant(backbone, mechanism, compiled, impl)
        for mechanism in plan.mechanisms
        if mechanism != PLAIN
        for compiled in plan.compiled
        for impl in plan.impls
    ]
    return list(dict.fromkeys([*plain, *others]))
