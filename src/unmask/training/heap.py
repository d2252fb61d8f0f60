"""glibc's heap on a CPU, which by itself keeps a third more than a step takes.

Where another C library allocates, or a GPU holds the tensors, nothing here does anything.
"""

import ctypes
import os
import sys
from functools import cache

from unmask.backbone.devices import default_device

_M_ARENA_MAX = -8  # in malloc.h


def use_one_heap() -> None:
    """Let all threads take memory from one heap, unless the environment says how many.

    Threads otherwise get heaps of their own, each of which keeps what a step once took. Those that have one keep it,
    so this comes before any work.
    """
    libc = _glibc()
    if libc is not None and "MALLOC_ARENA_MAX" not in os.environ:
        libc.mallopt(_M_ARENA_MAX, 1)


def trim_heap() -> None:
    """Give back what is free between the pieces that are not, as after loading a model or training one."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux" or default_device().type != "cpu":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
