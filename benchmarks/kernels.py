"""What the Triton kernels become on a GPU that need not be there: registers, and bytes spilled to memory.

    python benchmarks/kernels.py
    python benchmarks/kernels.py --capability 80 --dtype float32 --forms light

Runs the fused ops as the L and the B forms do, forward and backward, in training and in evaluation, on a CPU; but
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

from crosslayer.fused import support
from crosslayer.fused.batch_norm import BatchNorm
from crosslayer.fused.history_sum import history_sum, store
from crosslayer.fused.light_merge import light_merge
from crosslayer.fused.residual_output import residual_output
from crosslayer.fused.residual_value import residual_value

POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float64: "*fp64"}


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", default=[*FORMS], choices=[*FORMS])
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


def leaves(dtype: torch.dtype) -> dict[str, Tensor]:
    """Maps, kernels and vectors of a bottleneck's end."""
    shape, channels = (2, 256, 16, 16), 256
    maps = {name: torch.zeros(shape, dtype=dtype).contiguous(memory_format=torch.channels_last) for name in "xs"}
    kernels = {name: torch.zeros(channels, 1, 3, 3, dtype=dtype) for name in ("k", "carried")}
    vectors = {"w": torch.ones(channels), "b": torch.zeros(channels), "f": torch.zeros(2, 2, channels)}
    return {name: one.requires_grad_() for name, one in (maps | kernels | vectors).items()}


def light(leaf: dict[str, Tensor], norm: BatchNorm) -> None:
    """Ends of blocks with their merges, with and without a kernel on the shortcut, as one and taken apart."""
    known = leaf["s"].detach().mean((2, 3))
    for carried in (leaf["carried"], None):
        for apart in (False, True):
            out, pool, of_shortcut, ending = residual_output(leaf["x"], leaf["s"], norm, None if apart else known)
            terms = (leaf["k"], pool, pool if of_shortcut is None else of_shortcut, carried)
            made, _ = light_merge(out, leaf["s"], *terms, norm, pooled=not apart, ending=None if apart else ending)
            if torch.is_grad_enabled():
                made.sum().backward()


def base(leaf: dict[str, Tensor], norm: BatchNorm) -> None:
    """Two blocks that store a value each; the second reads both."""
    first = residual_value(leaf["x"], leaf["s"], norm, leaf["k"])
    stored = [store(first.value, first.value_pool, 2)]
    out = first.out + history_sum(stored, leaf["f"][:, :1])
    second = residual_value(out, leaf["s"], norm, leaf["k"])
    stored.append(store(second.value, second.value_pool, 1))
    made = second.out + history_sum(stored, leaf["f"])
    if torch.is_grad_enabled():
        (made.sum() + sum(one.pool.sum() for one in stored if one.pool is not None)).backward()


FORMS = {"light": light, "base": base}


def train_and_evaluate(form: str, dtype: torch.dtype) -> None:
    """Forward and backward in both modes, and without gradients."""
    leaf = leaves(dtype)
    for training, learns in ((True, True), (False, True), (False, False)):
        norm = BatchNorm(leaf["w"], leaf["b"], torch.zeros(256), torch.ones(256), training)
        with torch.set_grad_enabled(learns):
            FORMS[form](leaf, norm)


def main() -> int:
    """Compiles, prints, and says whether anything was spilled."""
    options = parsed()
    compiler = Compiler(options.capability)
    JITFunction.run = lambda kernel, *arguments, **named: compiler(kernel, *arguments, **named)
    support.INTERPRETED = True  # on a CPU's tensors
    for form in options.forms:
        print(f"# {form}, {options.dtype}, sm_{options.capability}", flush=True)
        train_and_evaluate(form, getattr(torch, options.dtype))
    return 1 if compiler.spilled else 0


if __name__ == "__main__":
    sys.exit(main())
