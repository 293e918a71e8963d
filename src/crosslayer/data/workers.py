"""Parts of batches computed by worker processes, a few batches ahead, in the order they are asked for."""

import signal
from collections.abc import Generator, Iterable, Iterator
from typing import Generic, TypeVar, final

from torch.multiprocessing import get_all_start_methods, get_context
from torch.utils.data import DataLoader, Dataset

from crosslayer.data.images import PREFETCH
from crosslayer.errors import FailedError
from crosslayer.processes import end_worker_with_trainer

PartT = TypeVar("PartT")
MadeT = TypeVar("MadeT")


class Plan(Generic[PartT]):
    """The parts that the loader is to fetch next."""

    def __init__(self) -> None:
        self.parts: Iterable[PartT] = ()

    def __iter__(self) -> Iterator[PartT]:
        return iter(self.parts)


@final
class Workers(Generic[PartT, MadeT]):
    """Processes (0: this one) that live as long as this object is not closed.

    Args:
        dataset: makes what one part asks for, or returns the FailedError of what cannot be made: raised in a worker, it
            would lose its words.
        count: processes.
        pinned: hand tensors on in pinned memory, for a GPU.
    """

    def __init__(self, dataset: Dataset[MadeT | FailedError], count: int, *, pinned: bool) -> None:
        self.plan: Plan[PartT] = Plan()
        self.loader: DataLoader[MadeT | FailedError] | None = DataLoader(
            dataset,
            batch_size=None,
            sampler=self.plan,
            num_workers=count,
            worker_init_fn=_begin_worker,
            multiprocessing_context=_clean_start(type(dataset).__module__) if count else None,
            prefetch_factor=PREFETCH if count else None,
            persistent_workers=count > 0,
            pin_memory=pinned,
        )

    def fetch(self, parts: Iterable[PartT]) -> Generator[MadeT]:
        """What the parts ask for, in order, whatever worker was first.

        Raises:
            FailedError: something that cannot be made, or a worker that ended.
        """
        assert self.loader is not None, "closed"
        self.plan.parts = parts
        try:
            for made in self.loader:
                if isinstance(made, FailedError):
                    raise made
                yield made
        except (RuntimeError, EOFError, OSError) as error:  # a worker is missed, or the socket of its tensors
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise FailedError("a process that decodes images was ended from outside; try fewer --workers") from error

    def close(self) -> None:
        """Ends the workers."""
        self.loader = None


def _clean_start(module: str):  # multiprocessing's contexts have no public type
    """Workers begin from a clean process: forking one with threads or a GPU in use may hang."""
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if hasattr(context, "set_forkserver_preload"):
        context.set_forkserver_preload([module])
    return context


def _begin_worker(_: int) -> None:
    """Signals are the training process's: it saves, then ends its workers; if it is killed, they end too."""
    end_worker_with_trainer()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
