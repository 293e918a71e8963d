"""Memory of one step: what the process holds, what tensors take, what is saved for the pass backward."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from crosslayer.benchmark.workload import ExportedInference, Step, TrainingStep

SAMPLING = 0.002
"""Seconds between two looks at the resident set."""
STEPS = 3
"""Steps over which the resident set is looked at."""


def resident_set() -> int:
    """Bytes of memory that this process holds."""
    return psutil.Process().memory_info().rss


def peak_resident_set(step: Callable[[], None]) -> int:
    """The most bytes that this process held over a few steps, looked at every few milliseconds."""
    done = threading.Event()
    seen = [resident_set()]

    def look() -> None:
        while not done.wait(SAMPLING):
            seen.append(resident_set())

    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(STEPS):
        step()
    done.set()
    watcher.join()
    return max(seen)


def peak_of_tensors(step: Step) -> int | None:
    """The most bytes that tensors took at once during a step, where PyTorch's own allocator counts them."""
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(step.device)
        step()
        return torch.cuda.max_memory_allocated(step.device)
    if step.device.type != "cpu" or isinstance(step, ExportedInference):
        return None
    before = _unique_bytes(step.resident())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    held = most = 0
    assert record.profiler is not None
    assert record.profiler.kineto_results is not None
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]  # torch's stub lacks it
            most = max(most, held)
    return before + most


def saved_for_backward(step: Step) -> int | None:
    """Bytes that a training step's pass forward keeps for its gradients beside parameters; of inference, nothing."""
    if not isinstance(step, TrainingStep):
        return None
    with count_saved(step.plain) as saved:
        loss = step.loss()
    loss.backward()
    step.optimizer.zero_grad(set_to_none=True)
    return sum(saved.values())


@contextmanager
def count_saved(model: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of every storage but the parameters' that is saved for a pass backward meanwhile, on any device."""
    kept = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in kept:
            saved[storage._cdata] = storage.nbytes()
        return tensor.detach()  # the same storage, so that its address is not given to another meanwhile

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def _unique_bytes(tensors: list[Tensor]) -> int:
    """Bytes of the tensors' storages, shared ones once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
