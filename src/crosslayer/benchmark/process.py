"""A worker seen from outside."""

import multiprocessing
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, final

from crosslayer.benchmark.worker import serve

PRELOADED = "crosslayer.benchmark.worker"
PATIENCE = 10
"""Seconds that a worker has to end by itself, and its compiler's processes with it."""


@final
class WorkerProcess:
    """A fresh process with compile caches of its own; it ends with the `with` block.

    Without a GPU it is forked from a process that has imported everything and done nothing, which saves the imports;
    a GPU's driver does not survive forks.

    Args:
        device: what it will work on.
        threads: threads on the CPU, if not PyTorch's choice.
    """

    def __init__(self, device: str, threads: int | None) -> None:
        forks = device.startswith("cpu")
        context = multiprocessing.get_context("forkserver") if forks else multiprocessing.get_context("spawn")
        context.set_forkserver_preload([PRELOADED])
        self.folder = tempfile.TemporaryDirectory(prefix="crosslayer-bench-", ignore_cleanup_errors=True)
        self.log = Path(self.folder.name) / "log"
        self.channel, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.folder.name, threads))
        self.process.start()
        theirs.close()

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()  # which the worker takes for its end, unless it is at work
        self.process.join(PATIENCE if error is None else 0)
        self.process.kill()
        self.process.join()
        self.folder.cleanup()

    def ask(self, order: str, **arguments: Any) -> dict[str, Any]:
        """The answer to an order; its `error` says what went wrong, the process's death included."""
        try:
            self.channel.send((order, arguments))
            return self.channel.recv()
        except (EOFError, ConnectionError):
            return self.death()

    def death(self) -> dict[str, Any]:
        """What is known of a process that ended by itself."""
        self.process.join()
        code = self.process.exitcode
        if code == -9:
            return {"error": "the process was killed, as a rule because memory ran out"}
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return {"error": f"the process ended with code {code}: {lines[-1] if lines else 'no message'}"}
