"""What a plan may hold: every fault is one sentence, told before anything is measured."""

import math

from crosslayer.benchmark.configuration import PLAIN, Plan
from crosslayer.benchmark.networks import build_network
from crosslayer.benchmark.workload import FORMATS
from crosslayer.errors import UsageError
from crosslayer.export.formats import find_kind
from crosslayer.fused import unavailable
from crosslayer.training.launch import choose_device
from crosslayer.training.recipe import LARGEST, OF_NETWORKS, check_bounds, flag

LISTS = ("backbones", "mechanisms", "modes", "precisions", "compiled", "impls", "runtimes", "batch_sizes")
LEAST = {"num_classes": 1, "threads": 1, "rounds": 1}


def check(plan: Plan) -> None:
    """Raises UsageError for a value outside its range, an unknown name, or two that do not go together."""
    check_numbers(plan)
    check_runtimes(plan)
    if "torch" in plan.runtimes and "fused" in plan.impls and (reason := unavailable(choose_device(plan.device))):
        raise UsageError(f"--impls fused: {reason}; use plain")
    pairs = {(backbone, mechanism) for backbone in plan.backbones for mechanism in (PLAIN, *plan.mechanisms)}
    for backbone, mechanism in sorted(pairs | ({(plan.baseline, PLAIN)} if plan.baseline else set())):
        build_network(backbone, mechanism, plan.num_classes)


def check_runtimes(plan: Plan) -> None:
    """What runtimes beside PyTorch need."""
    for runtime, name in FORMATS.items():
        if runtime not in plan.runtimes:
            continue
        if missing := find_kind(name).missing():
            raise UsageError(f"--runtimes {runtime} needs {missing}: pip install 'crosslayer[export]'")
        if "infer" not in plan.modes or "fp32" not in plan.precisions or choose_device(plan.device).type != "cpu":
            raise UsageError(f"--runtimes {runtime} is measured with --modes infer --precisions fp32 --device cpu only")


def check_numbers(plan: Plan) -> None:
    """Every value on its own."""
    for name in LISTS:
        if not getattr(plan, name):
            raise UsageError(f"{flag(name)} is empty; give at least one")
    for name, least in LEAST.items():
        check_bounds(name, getattr(plan, name), least, OF_NETWORKS.get(name, LARGEST))
    for name in ("batch_sizes", "image_sizes"):
        for value in getattr(plan, name):
            check_bounds(name, value, most=OF_NETWORKS[name])
    if not 0 < plan.seconds < math.inf:
        raise UsageError(f"--seconds is {plan.seconds}; it must be above 0, and a finite number")
