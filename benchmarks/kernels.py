"""What the Triton kernels become on a GPU that need not be there: registers, and bytes spilled to memory.

    python benchmarks/kernels.py
    python benchmarks/kernels.py --capability 80 --dtype float32 --mechanisms dla_l

Runs a stage of two bottlenecks with each mechanism, forward and backward, in training and in evaluation, on a CPU; but
instead of launching a kernel it compiles it, as it would be for these arguments, and prints a line for it. Nothing is
computed, so it takes no GPU, and says nothing about time. The exit code is 1 if a kernel spills registers.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported: this is about what is compiled

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from crosslayer.mechanisms.batch_norm import counted
from crosslayer.models.block import Bottleneck
from crosslayer.models.factory import mechanism_factory
from crosslayer.models.stage import Stage
from crosslayer.ops import implementation, residual_output, selection

MECHANISMS = ("dla_l", "mrla_l", "dla_b")
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float64: "*fp64"}


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mechanisms", nargs="+", default=MECHANISMS, choices=MECHANISMS)
    parser.add_argument("--capability", type=int, default=90, help="of the GPU, as in sm_90")
    parser.add_argument("--dtype", default="bfloat16", choices=[str(dtype).split(".")[1] for dtype in POINTERS])
    return parser.parse_args()


def typed(argument: Any) -> Any:
    """An argument's type as Triton writes it; a one is a constant."""
    if isinstance(argument, tuple):
        return tuple(map(typed, argument))
    if isinstance(argument, Tensor):
        return POINTERS[argument.dtype]
    if isinstance(argument, float):
        return "fp32"
    return "constexpr" if argument == 1 else "i32"


def places(argument: Any, at: tuple[int, ...]) -> list[tuple[tuple[int, ...], Any]]:
    """An argument's parts with their places, a tuple's one by one."""
    if not isinstance(argument, tuple):
        return [(at, argument)]
    return [place for i, one in enumerate(argument) for place in places(one, (*at, i))]


def source_of(kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> ASTSource:
    """A kernel for these arguments: what is divisible by sixteen may be loaded so much at a time."""
    names = [name for name in kernel.arg_names if name not in constants]
    signature = dict.fromkeys(constants, "constexpr")
    signature |= {name: typed(argument) for name, argument in zip(names, arguments, strict=True)}
    fixed = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    divisible = {}
    for name, argument in zip(names, arguments, strict=True):
        for at, part in places(argument, (kernel.arg_names.index(name),)):
            if isinstance(part, Tensor) or (isinstance(part, int) and part % 16 == 0):
                divisible[at] = [["tt.divisibility", 16]]
            elif isinstance(part, int) and part == 1:
                fixed[at] = 1
    return ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, fixed, divisible)


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers for a thread, and bytes of its stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        tool = triton.knobs.nvidia.cuobjdump.path
        shown = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", shown)
    if not found:
        raise RuntimeError(f"cuobjdump said nothing of registers: {shown}")
    return int(found[1]), int(found[2])


class Compiler:
    """Stands in for launches; compiles each kind of launch once."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)
        self.seen: set[str] = set()
        self.spilled = 0

    def __call__(self, kernel: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> None:
        """Compiles a kernel, if it is another one or for other arguments, and prints what became of it."""
        constants = {name: named.pop(name) for name in kernel.arg_names if name in named}
        source = source_of(kernel, arguments, constants)
        if source.hash() in self.seen:
            return
        self.seen.add(source.hash())
        made = triton.compile(source, target=self.target, options=named)
        registers, spilled = resources(made.asm["cubin"])
        self.spilled += spilled
        flags = " ".join(f"{name}={value}" for name, value in constants.items() if isinstance(value, int))
        print(f"{kernel.__name__:29} {registers:4} registers {spilled:4} bytes spilled  {flags}", flush=True)


def train_and_evaluate(name: str, dtype: torch.dtype) -> None:
    """Two blocks, and their ends taken apart, as where a block is closed or its output has other readers."""
    stage = Stage(0, Bottleneck, 2, 256, 64, 1, mechanism_factory(name, {}), last=True, small_images=False)
    stage = stage.to(dtype, memory_format=torch.channels_last)
    mechanism, norm = stage.mechanism, counted(stage.blocks[0].last_norm)
    x = torch.zeros(2, 256, 16, 16, dtype=dtype).contiguous(memory_format=torch.channels_last)
    stage(x, None)[0].sum().backward()
    mechanism.merge(0, residual_output(x, x, norm)._replace(ending=None), x, mechanism.start(x, None))[
        0
    ].sum().backward()
    stage.eval()(x, None)[0].sum().backward()
    with torch.no_grad():
        stage(x, None)


def main() -> int:
    """Compiles, prints, and says whether anything was spilled."""
    options = parsed()
    compiler = Compiler(options.capability)
    JITFunction.run = lambda kernel, *arguments, **named: compiler(kernel, *arguments, **named)
    selection.INTERPRETED = True  # on a CPU's tensors
    for mechanism in options.mechanisms:
        print(f"# {mechanism}, {options.dtype}, sm_{options.capability}", flush=True)
        with implementation("fused"):
            train_and_evaluate(mechanism, getattr(torch, options.dtype))
    return 1 if compiler.spilled else 0


if __name__ == "__main__":
    sys.exit(main())
