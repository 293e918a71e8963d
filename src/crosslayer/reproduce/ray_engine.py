"""Runs on the machines and GPUs of a ray cluster, collected into one folder."""

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crosslayer.errors import UsageError
from crosslayer.reproduce.local import Failure, Tell
from crosslayer.reproduce.plan import Planned
from crosslayer.reproduce.remote import Outcome, Task, pack, train_here, unpack
from crosslayer.training.interruption import InterruptedRun, Interruption

RETRIES = 5
"""How often a run is begun again, or goes on, after its worker was lost."""
PATIENCE = 0.5
"""Seconds between looks at signals."""
PATIENT_SECONDS = 10
"""How long a cluster may take to answer at its address."""


def run_on_ray(
    runs: Sequence[Planned], jobs: int | None, launch: Sequence[str], address: str | None, tell: Tell
) -> list[Failure]:
    """Trains all runs on a cluster; one that fails does not stop the others.

    A run takes one GPU where the cluster has any, otherwise one processor core. Where workers see the output folder,
    runs are made in it, and one whose worker was lost goes on from its last checkpoint; elsewhere a run is made on
    the worker's own disk and sent back, and begins again if the worker is lost.

    Args:
        runs: what to train.
        jobs: how many at once; absent, as many as the cluster has room for.
        launch: further words for `crosslayer train`.
        address: of the cluster; absent, that of $RAY_ADDRESS, or a new one on this machine.
        tell: is told what starts and ends.

    Raises:
        UsageError: ray is not installed, or there is no cluster at the address.
        InterruptedRun: a signal came; it was passed on.
    """
    ray = _import_ray()
    with cluster(ray, address), _shared_token(runs) as token:
        gpus = ray.cluster_resources().get("GPU", 0) > 0
        train = ray.remote(max_calls=1, max_retries=RETRIES, num_gpus=int(gpus), num_cpus=int(not gpus))(_on_worker)
        waiting, failures, active = list(runs), [], dict[Any, Planned]()
        with Interruption() as interruption:
            while (waiting or active) and not interruption.number:
                while waiting and (jobs is None or len(active) < jobs):
                    run = waiting.pop(0)
                    active[train.remote(task_of(run, token, launch))] = run
                done, _ = ray.wait(list(active), num_returns=1, timeout=PATIENCE)
                for reference in done:
                    failures += _collected(ray, reference, active.pop(reference), tell)
            if interruption.number:
                stop(ray, list(active))
                raise InterruptedRun(interruption.number, "stopped by a signal; the same command goes on")
    return failures


def _import_ray() -> Any:
    """The library.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UsageError("--engine ray needs ray: pip install 'crosslayer[ray]'") from error
    return ray


@contextlib.contextmanager
def cluster(ray: Any, address: str | None) -> Iterator[None]:
    """A connection to a cluster, or a cluster of this machine alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _check_address(address)
    try:
        ray.init(
            address=address, include_dashboard=None if address else False, log_to_driver=False, logging_level="ERROR"
        )
    except (ConnectionError, ValueError) as error:
        raise UsageError(f"--address {address}: no ray cluster answers there ({str(error).splitlines()[0]})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str | None) -> None:
    """Raises UsageError where nobody listens at HOST:PORT, for which ray itself would wait many minutes."""
    host, _, port = (address or "").rpartition(":")
    if not (host and port.isdigit()) or "//" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=PATIENT_SECONDS).close()
    except OSError as error:
        raise UsageError(f"--address {address}: no ray cluster answers there ({error.strerror or error})") from error


@contextlib.contextmanager
def _shared_token(runs: Sequence[Planned]) -> Iterator[str]:
    """A file by which workers tell whether they see the output folder."""
    token = Path.cwd() / runs[0].path.parents[1] / f".seen-{uuid.uuid4().hex}" if runs else Path(".seen")
    if runs:
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch()
    try:
        yield str(token)
    finally:
        token.unlink(missing_ok=True)


def task_of(run: Planned, token: str, launch: Sequence[str]) -> Task:
    """What is sent to a worker."""
    begun = pack(run.path) if run.state() == "broken" else None
    return Task(run.fresh_words(), str(run.path.absolute()), token, begun, list(launch))


def _on_worker(task: Task) -> Outcome:
    """What a worker does; says which it was."""
    import ray

    return train_here(task, f"node {ray.get_runtime_context().get_node_id()[:8]}")


def _collected(ray: Any, reference: Any, run: Planned, tell: Tell) -> list[Failure]:
    """Keeps what a worker sent back; a failure, if its run did not end well."""
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        outcome = Outcome(1, str(error).splitlines()[0], "no worker", None)
    if outcome.archive:
        unpack(outcome.archive, run.path)
    if outcome.code == 0:
        tell(f"  done on {outcome.where}: {run.name}")
        return []
    reason = outcome.reason or f"exit code {outcome.code}"
    tell(f"  failed on {outcome.where}: {run.name}: {reason}")
    return [Failure(run, reason)]


def stop(ray: Any, references: list[Any]) -> None:
    """Interrupts all tasks, which save their runs, and waits for them."""
    for reference in references:
        ray.cancel(reference)
    if references:
        ray.wait(references, num_returns=len(references), timeout=60)
