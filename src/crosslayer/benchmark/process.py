"""A worker seen from outside."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, final

from crosslayer.errors import FailedError


@final
class WorkerProcess:
    """A fresh process with compile caches of its own; it ends with the `with` block.

    Args:
        threads: threads on the CPU, if not PyTorch's choice.
    """

    def __init__(self, threads: int | None) -> None:
        self.threads = threads
        self.folder = tempfile.TemporaryDirectory(prefix="crosslayer-bench-", ignore_cleanup_errors=True)
        self.log = Path(self.folder.name) / "log"
        caches = {"TORCHINDUCTOR_CACHE_DIR": str(Path(self.folder.name) / "inductor")}
        if threads is not None:
            caches["OMP_NUM_THREADS"] = str(threads)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "crosslayer.benchmark.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | caches,
            )

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.folder.cleanup()

    def wait(self) -> "WorkerProcess":
        """Returns when the process is ready for orders.

        Raises:
            FailedError: it could not start.
        """
        if reason := self.receive().get("error"):
            raise FailedError(f"a measuring process could not start: {reason}")
        return self

    def ask(self, order: str, **arguments: Any) -> dict[str, Any]:
        """The answer to an order; its `error` says what went wrong, the process's death included."""
        assert self.process.stdin is not None
        try:
            print(json.dumps({"order": order, **arguments}), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return self.death()
        return self.receive()

    def receive(self) -> dict[str, Any]:
        """The next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else self.death()

    def death(self) -> dict[str, Any]:
        """What is known of a process that ended by itself."""
        code = self.process.wait()
        if code == -9:
            return {"error": "the process was killed, as a rule because memory ran out"}
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return {"error": f"the process ended with code {code}: {lines[-1] if lines else 'no message'}"}
