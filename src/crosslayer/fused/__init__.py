"""Fused execution: `fuse(model)` lets families of mechanisms run their map formulas faster, `unfuse` takes it back.

A model is plain PyTorch until it is asked. What is fused gives the plain model's results to rounding; a block whose
modules have been exchanged, hooked or reparametrised, whose maps the ops do not take, or which a transform of
torch.func or an export looks at, runs plainly. No parameter is added and none is renamed.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from crosslayer.fused.base_pass import FusedBasePass
from crosslayer.fused.cpu import compiler
from crosslayer.fused.fused_pass import FusedPass
from crosslayer.fused.light_pass import FusedLightPass
from crosslayer.fused.mean_pass import FusedMeanPass
from crosslayer.fused.support import unavailable
from crosslayer.mechanisms import Mechanism
from crosslayer.mechanisms.depth_pass import DepthPass
from crosslayer.mechanisms.kcla import KeyCorrelatedLayerAttention
from crosslayer.mechanisms.layer_attention import BaseLayerAttention, LightLayerAttention

__all__ = ["FusionReport", "StageReport", "fuse", "unavailable", "unfuse"]

EXECUTORS: dict[type[Mechanism[Any]], type[FusedPass]] = {
    LightLayerAttention: FusedLightPass,
    BaseLayerAttention: FusedBasePass,
    KeyCorrelatedLayerAttention: FusedMeanPass,
}
"""How a family of mechanisms is run faster."""
log = logging.getLogger(__name__)


class StageReport(NamedTuple):
    """One stage of a network.

    Args:
        path: its name in the network.
        mechanism: the class of its mechanism.
        fused: how many of its blocks run fused.
        blocks: how many it has.
        reason: why the others do not.
    """

    path: str
    mechanism: str
    fused: int
    blocks: int
    reason: str | None

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{self.path}: {self.mechanism}, {self.fused} of {self.blocks} blocks fused{why}"


class FusionReport(NamedTuple):
    """What runs fused, what does not, and why."""

    stages: tuple[StageReport, ...]

    @property
    def fused(self) -> bool:
        """Whether anything does."""
        return any(stage.fused for stage in self.stages)

    def __str__(self) -> str:
        return "\n".join(map(str, self.stages)) or "nothing to fuse: no stage has a mechanism"


def fuse(model: nn.Module, say: Callable[[str], None] | None = None, *, channels_last: bool = True) -> FusionReport:
    """Lets a model's mechanisms run their map formulas in fused ops, in place, and lays it out channels-last.

    On a CPU the ops are C++ that the machine's compiler builds at first use, within half a minute; on CUDA they are
    Triton's kernels. Works on own networks, grafts and what holds them (detectors, wrappers), for training and
    inference. The state dict stays as it is; copies and pickles stay fused.

    Args:
        model: a network on the device where it will run.
        say: is told in a line each that C++ is being built and how long that took; by default to standard error.
        channels_last: lay kernels out so. Without, give the model images that are: for `fully_shard`, which shards
            contiguous parameters only and comes after `fuse`.

    Returns:
        What runs fused, what does not, and why.
    """
    where = next(model.parameters(), torch.empty(0))
    stages = _stages(model)
    if where.device.type == "cpu" and any(_executor(mechanism) for _, _, mechanism in stages):
        compiler.build_all(say or _to_stderr)
    missing = unavailable(where.device, where.dtype)
    reports = [_attach(path, stage, mechanism, missing) for path, stage, mechanism in stages]
    if channels_last and any(report.fused for report in reports):
        _lay_out(model)
    return FusionReport(tuple(reports))


def unfuse(model: nn.Module) -> None:
    """Lets all of a model run in plain PyTorch again, in place; its memory layout stays."""
    for _, stage, _ in _stages(model):
        stage.pass_type = DepthPass


def _stages(model: nn.Module) -> list[tuple[str, Any, Mechanism[Any]]]:
    """Every module that begins passes, by name, and its mechanism."""
    found = []
    for path, module in model.named_modules():
        if isinstance(getattr(module, "pass_type", None), type):
            stage = cast(Any, module)
            found.append((path, stage, stage.own_mechanism))
    return found


def _executor(mechanism: Mechanism[Any]) -> type[FusedPass] | None:
    """What runs a mechanism's family faster, if anything does."""
    return next((kind for family, kind in EXECUTORS.items() if isinstance(mechanism, family)), None)


def _attach(path: str, stage: Any, mechanism: Mechanism[Any], missing: str | None) -> StageReport:
    """Attaches the executor to a stage where it can run."""
    name, blocks, kind = type(mechanism).__name__, stage.depth, _executor(mechanism)
    if kind is None:
        return StageReport(path, name, 0, blocks, "no executor is written for it")
    if missing:
        return StageReport(path, name, 0, blocks, missing)
    reasons = [kind.block_obstacle(mechanism, t) for t in range(blocks)]
    if None in reasons:
        stage.pass_type = kind
    return StageReport(path, name, reasons.count(None), blocks, next((r for r in reasons if r), None))


def _lay_out(model: nn.Module) -> None:
    """Every kernel channels-last, so that convolutions write maps as the ops read them."""
    for kernel in model.parameters():
        if kernel.dim() == 4:
            kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)


def _to_stderr(line: str) -> None:
    print(f"crosslayer: {line}", file=sys.stderr, flush=True)
