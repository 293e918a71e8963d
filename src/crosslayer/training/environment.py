"""What a run ran on: versions, commit, machine."""

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

LIBRARIES = ("crosslayer", "torch", "torchvision", "timm", "accelerate", "numpy", "faster-coco-eval")


def describe_environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Versions, the commit of the source if it is a checkout, and the machine, as plain values."""
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "commit": commit(),
        "machine": machine(device) | {"processes": processes},
        "command": " ".join(["crosslayer", *sys.argv[1:]]),
    }


def version(name: str) -> str:
    """A library's installed version."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str | None:
    """The commit of the checkout this package runs from, with a mark where files differ from it."""
    folder = Path(__file__).parent
    try:
        tracked = git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        described = git(folder, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return None
    return described if tracked else None


def git(folder: Path, *arguments: str) -> str:
    """The output of a git command."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores, memory, and the device that was trained on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": str(device),
        "gpu": gpu,
        "processor": processor(),
        "cores": psutil.cpu_count(logical=True),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
    }


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
