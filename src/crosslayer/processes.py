"""Processes that do not outlive the one they work for."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess

_PR_SET_PDEATHSIG = 1
"""Of <linux/prctl.h>."""


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Has this process sent a signal when its parent ends, however that ends (on Linux; elsewhere nothing).

    Args:
        parent: the parent's id, as it was begun by: it may have ended since.
        number: the signal.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def end_worker_with_trainer() -> None:
    """Has this process of multiprocessing's end when the one that asked for it has ended, however that ended.

    Its parent, a server that forks, is none to watch: it lives as long as any of its children.
    """
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        threading.Thread(target=_follow, args=(trainer,), daemon=True).start()


def _follow(trainer: BaseProcess) -> None:
    trainer.join()
    os._exit(1)
