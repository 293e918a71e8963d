"""What layer attention costs in other runtimes: milliseconds per image and speed beside the plain network's.

    python benchmarks/export.py
    python benchmarks/export.py --backbones resnet50 --mechanisms none dla_l mrla_l --output results/benchmark-export

Networks with fresh weights are written as `crosslayer export` writes them, and run on one image in one process, each
runtime after the other and within it every network in turn: medians over the rounds, so that what else the machine
does meets all alike.
"""

import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tyro

from crosslayer.benchmark.networks import build_network
from crosslayer.cli import outcome
from crosslayer.console import console
from crosslayer.export.formats import find_format
from crosslayer.export.lean import lean_program
from crosslayer.files import write_json
from crosslayer.models.factory import image_size_of

RUNTIMES = {"onnxruntime": "onnx", "openvino": "openvino"}
WARM_UP = 5


@dataclasses.dataclass(frozen=True)
class Options:
    """Milliseconds per image in ONNX Runtime and OpenVINO."""

    backbones: tuple[str, ...] = ("resnet50", "cifar_resnet20")
    """Networks."""
    mechanisms: tuple[str, ...] = ("none", "dla_l", "mrla_l")
    """Mechanisms; speeds are beside the first."""
    runtimes: tuple[str, ...] = ("onnxruntime", "openvino")
    """Runtimes."""
    threads: int = 2
    """Threads of each."""
    rounds: int = 60
    """Turns of every network."""
    output: str | None = None
    """Folder for export.json."""


def run(words: list[str]) -> None:
    """A line for every network, as it is measured, and with --output a file of them."""
    options = tyro.cli(Options, args=words, prog="export.py")
    rows: list[dict[str, Any]] = []
    for backbone in options.backbones:
        size = image_size_of(backbone)
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        for runtime in options.runtimes:
            with tempfile.TemporaryDirectory() as folder:
                calls = {m: prepare(backbone, m, runtime, image, Path(folder), options) for m in options.mechanisms}
                times = in_turn(calls, options.rounds)
            first = statistics.median(times[options.mechanisms[0]])
            for mechanism, measured in times.items():
                median = statistics.median(measured)
                row = {"backbone": backbone, "image_size": size, "runtime": runtime, "mechanism": mechanism}
                rows.append(row | {"ms": 1e3 * median, "least_ms": 1e3 * min(measured), "speed": first / median})
                console.print(
                    f"{backbone}, {runtime}, {mechanism}: {1e3 * median:.2f} ms per image, {first / median:.2f} of "
                    f"{options.mechanisms[0]}'s speed"
                )
            if options.output:
                settings = {"threads": options.threads, "rounds": options.rounds, "batch": 1}
                write_json(Path(options.output) / "export.json", {"settings": settings, "rows": rows})


def prepare(
    backbone: str, mechanism: str, runtime: str, image: torch.Tensor, folder: Path, options: Options
) -> Callable[[], Any]:
    """A network, written and ready to run on the image."""
    torch.manual_seed(0)
    kind = find_format(RUNTIMES[runtime], int8=False)  # pyright: ignore[reportArgumentType]
    path = folder / f"{mechanism}{kind.suffix}"
    model = build_network(backbone, mechanism, 1000 if image.shape[-1] > 32 else 10).eval()
    kind.write(lean_program(model, image), image, {}, folder, path.name)
    if runtime == "onnxruntime":
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"images": image.numpy()})
    import openvino

    settings = {"INFERENCE_NUM_THREADS": options.threads, "INFERENCE_PRECISION_HINT": "f32"}
    request: Any = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda: request.infer([image.numpy()])


def in_turn(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call, in rounds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(WARM_UP + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    sys.exit(outcome(run, sys.argv[1:]))
