"""glibc's heap on a CPU. Where another C library allocates, or a GPU holds the tensors, nothing here does anything.

Two things cost by themselves. Each thread's heap keeps what a training step once took: a third more than the step. And
what lies free at the end of a heap goes back to the system as soon as it is some dozen megabytes, so that what one
layer frees may come back to the next as zeroed pages, in thousands of page faults a batch. Whether it does depends on
what else lies at the end of the heap: with sentences through 30M parameters it took 14% of the time in one process and
nothing in another (docs/log.md). Blocks of more than 32 MB always come from the system, because they leave holes.
"""

import ctypes
import os
import sys
from functools import cache

from unmask.backbone.devices import default_device

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # in malloc.h
_KEPT_BYTES = 512 << 20  # free at the end of the heap
_LARGEST_BLOCK = 32 << 20  # that comes from the heap; where glibc by itself ends when it has seen such blocks
_ASKED_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


def use_one_heap() -> None:
    """Let all threads take memory from one heap, unless the environment says how many.

    Threads that have one keep it, so this comes before any work.
    """
    libc = _glibc()
    if libc is not None and "MALLOC_ARENA_MAX" not in os.environ:
        libc.mallopt(_ARENA_MAX, 1)


def trim_heap() -> None:
    """Give back what is free between the pieces that are not, as after loading a model or training one."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def keep_freed_memory() -> None:
    """Keep what is freed for what comes next, unless the environment says how much of it to keep."""
    libc = _glibc()
    asked = any(name in os.environ for name in _ASKED_BY) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if libc is None or asked:
        return
    # Both: to set one stops glibc from fitting the other to what is freed.
    libc.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
    libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux" or default_device().type != "cpu":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
