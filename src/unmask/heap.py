"""How much freed memory glibc keeps for the process; no torch here.

A layer on a CPU frees as much as the next one asks for. By itself glibc hands what lies at the end of its heap back to
the system as soon as it is some dozen megabytes, and takes blocks of more than 32 MB from the system each time. Every
page then comes back as zeros, in thousands of page faults a batch; whether it happens depends on what else lies at the
end of the heap. With sentences through 30M parameters it took 14% (docs/results.md).
"""

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES = 512 << 20  # at the end of the heap; what a batch needs lies below
_LARGEST_BLOCK = 256 << 20  # that comes from the heap
_ASKED_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, unless the environment says what it keeps; True if it does now."""
    if any(name in os.environ for name in _ASKED_BY) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        glibc = os.confstr("CS_GNU_LIBC_VERSION")
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError, ValueError):  # another C library, or another system
        return False
    # Both, because setting one stops glibc from fitting the other to what is freed.
    return bool(glibc) and mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK) == 1 == mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
