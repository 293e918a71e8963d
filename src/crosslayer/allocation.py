"""What becomes of memory that is freed on the CPU."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of malloc.h."""
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets glibc's allocator keep what is freed for the next step, in this process; returns whether it does.

    By default maps of some megabytes go back to the system when they are freed and come from it anew in the next
    step, where every page is cleared at its first touch: in a step of training that can cost more than many an
    operation. The price is that the process stays as large as it ever was. Other allocators (musl's, macOS's, one
    that is preloaded) are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, LARGEST))
