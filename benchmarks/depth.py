"""How time per block grows with depth: one stage of blocks with each mechanism, from shallow to deep.

    python benchmarks/depth.py
    python benchmarks/depth.py --depths 2 8 32 --mechanisms none mrla_b --training --plot depth.png

Measures, for every depth and mechanism, one stage of equal bottlenecks on noise and prints milliseconds per block; for
each mechanism also by how much that grows with every stored layer that a block reads on average, (depth + 1) / 2 of
them in the B forms (a straight line through all depths). Beside it stands the time of one read of one map, measured by
the pass that takes a map's mean, over as many maps in turn as the deepest stage stores, so that they are as far from
the processor as stored layers are: the B forms' forward pass reads every stored layer once to evaluate.

On a CPU the first touch of new memory costs several times what reading does, and deep stages touch more: to see the
passes alone, glibc is told to keep what is freed, as `crosslayer`'s commands do.

Depths and mechanisms are measured in turn, forth and back, `--rounds` times; the fastest round counts.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from crosslayer import fuse, list_mechanisms
from crosslayer.allocation import keep_freed_memory
from crosslayer.mechanisms import StageShape
from crosslayer.models.blocks import Bottleneck, Stage
from crosslayer.models.factory import mechanism_factory
from crosslayer.ops.pooling import global_average_pool
from crosslayer.reports.figure import new_figure, write_figure

MECHANISMS = ("none", "mrla_l", "dla_l", "mrla_b", "dla_b")


class Case(NamedTuple):
    """One line of the table: a mechanism at one depth."""

    mechanism: str
    depth: int


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mechanisms", nargs="+", default=MECHANISMS, choices=list_mechanisms(), metavar="NAME")
    parser.add_argument("--depths", nargs="+", type=int, default=(2, 4, 8, 16), metavar="BLOCKS")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--width", type=int, default=16, help="of a bottleneck; its output has four times as many channels"
    )
    parser.add_argument("--side", type=int, default=32, help="of the maps")
    parser.add_argument("--training", action="store_true", help="forward and backward instead of evaluation")
    parser.add_argument("--plain", action="store_true", help="in plain PyTorch, without fused ops")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--plot", help="PNG file to draw into")
    options = parser.parse_args()
    if min(*options.depths, options.batch_size, options.width, options.side, options.rounds) < 1:
        parser.error("depths, batch size, width, side and rounds are at least 1")
    return options


def work(case: Case, x: Tensor, width: int, *, training: bool, plain: bool) -> Callable[[], None]:
    """One step of a stage."""
    torch.manual_seed(0)
    shape = StageShape(0, case.depth, 4 * width, Bottleneck.inner_channels(width), last=True, small_images=True)
    mechanism = mechanism_factory(case.mechanism, {}).of([shape])(0)
    stage = Stage(Bottleneck, shape, x.shape[1], width, 1, mechanism)
    stage = stage.to(x.device, memory_format=torch.channels_last).train(training)
    if not plain:
        fuse(stage)

    def step() -> None:
        with torch.set_grad_enabled(training):
            out = stage(x)
            if training:
                out.backward(torch.ones_like(out))

    return step


def seconds(step: Callable[[], object], device: torch.device) -> float:
    """Of one step, to its end on the device."""
    begun = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def measured(steps: dict[Case, Callable[[], None]], rounds: int, device: torch.device) -> dict[Case, float]:
    """Milliseconds per block, the least of all rounds."""
    best = dict.fromkeys(steps, float("inf"))
    for step in steps.values():
        step()
    for number in range(rounds):
        for case in list(steps)[:: 1 if number % 2 == 0 else -1]:
            best[case] = min(best[case], 1e3 * seconds(steps[case], device) / case.depth)
    return best


def read_time(x: Tensor, count: int) -> float:
    """Milliseconds for one read of one of so many maps, read in turn; the least of five times through."""
    maps = [x.clone() for _ in range(count)]
    return (
        min(sum(seconds(partial(global_average_pool, map_), x.device) for map_ in maps) for _ in range(5)) * 1e3 / count
    )


def growth(times: dict[Case, float], mechanism: str) -> float:
    """Milliseconds per block for each further stored layer that a block reads on average."""
    points = {(case.depth + 1) / 2: value for case, value in times.items() if case.mechanism == mechanism}
    return statistics.linear_regression(list(points), list(points.values())).slope


def print_table(times: dict[Case, float], options: argparse.Namespace, reading: float) -> None:
    """A row for each mechanism, a column for each depth."""
    print("ms per block   " + "".join(f"depth {depth:<6}" for depth in options.depths) + "growth per stored layer")
    for name in options.mechanisms:
        row = "".join(f"{times[Case(name, depth)]:<12.2f}" for depth in options.depths)
        print(f"{name:<15}{row}{growth(times, name):.3f}" if len(options.depths) > 1 else f"{name:<15}{row}")
    print(f"one read of one map: {reading:.3f}")


def draw(times: dict[Case, float], options: argparse.Namespace) -> None:
    """Time per block against depth."""
    figure = new_figure(6, 4)
    axes = figure.add_subplot()
    for name in options.mechanisms:
        axes.plot(options.depths, [times[Case(name, depth)] for depth in options.depths], marker="o", label=name)
    axes.set(xlabel="blocks of the stage", ylabel="ms per block", ylim=(0, None))
    axes.legend()
    write_figure(figure, Path(options.plot))


def main() -> None:
    """Measures, prints, draws."""
    options = parsed()
    keep_freed_memory()
    device = torch.device(options.device)
    x = torch.randn(options.batch_size, 4 * options.width, options.side, options.side, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    cases = [Case(name, depth) for depth in options.depths for name in options.mechanisms]
    steps = {case: work(case, x, options.width, training=options.training, plain=options.plain) for case in cases}
    reading = read_time(x, max(options.depths))
    times = measured(steps, options.rounds, device)
    print_table(times, options, reading)
    if options.plot:
        draw(times, options)


if __name__ == "__main__":
    main()
