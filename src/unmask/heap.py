"""glibc's heap on a CPU, and what oneDNN keeps. Where another C library allocates, nothing is done about the heap.

Two things cost by themselves. Each thread's heap keeps what a training step once took: a third more than the step. And
what lies free at the end of a heap goes back to the system as soon as it is some dozen megabytes, so that what one
layer frees may come back to the next as zeroed pages, in thousands of page faults a batch. Whether it does depends on
what else lies at the end: with sentences through 30M parameters it took 14% of the time in one process and nothing in
another (docs/log.md). Blocks of more than 32 MB always come from the system, because they leave holes.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from functools import cache

from unmask.backbone.devices import default_device

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # in malloc.h
_KERNELS = "PRIMITIVE_CACHE_CAPACITY"
_KEPT_BYTES = 512 << 20  # free at the end of the heap
_LARGEST_BLOCK = 32 << 20  # that comes from the heap; glibc's own limit grows as far
# By these a user says how much of what is freed glibc keeps; any of them stops it from finding out by itself.
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")
_TUNABLES = ("glibc.malloc.trim_threshold", "glibc.malloc.mmap_threshold", "glibc.malloc.top_pad")


def use_one_heap() -> None:
    """Let all threads take memory from one heap, unless the environment says how many, or a GPU holds the tensors.

    Threads that have one keep it, so this comes before any work.
    """
    libc = glibc_of_a_cpu()
    if libc is not None and not _said(("MALLOC_ARENA_MAX",), ("glibc.malloc.arena_max",)):
        libc.mallopt(_ARENA_MAX, 1)


def keep_few_kernels() -> None:
    """Let oneDNN keep fewer of the kernels that it makes for each size of a product, unless the environment says so.

    By itself it keeps a thousand, and training has new sizes for long: SmolLM2's process grew from 7.8 to 11.8 GB in 80
    steps (docs/log.md). oneDNN asks the environment at its first product, so this comes before any work.
    """
    if not any(f"{prefix}_{_KERNELS}" in os.environ for prefix in ("ONEDNN", "DNNL")):
        os.environ[f"ONEDNN_{_KERNELS}"] = "64"


def trim_heap() -> None:
    """Give back what is free between the pieces that are not, as after loading a model or training one."""
    libc = glibc_of_a_cpu()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def keep_freed_memory() -> None:
    """Keep what is freed for what comes next, unless the environment says how much of it to keep."""
    libc = _glibc()
    if libc is None or _said(_VARIABLES, _TUNABLES):
        return
    # Both: to set one stops glibc from fitting the other to what is freed.
    libc.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
    libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def glibc_of_a_cpu() -> ctypes.CDLL | None:
    """The C library, if it is glibc and its heap is where tensors are."""
    return _glibc() if default_device().type == "cpu" else None


@cache
def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def _said(variables: Sequence[str], tunables: Sequence[str]) -> bool:
    """Whether the environment sets one of them."""
    tuned = os.environ.get("GLIBC_TUNABLES", "")
    return any(name in os.environ for name in variables) or any(f"{name}=" in tuned for name in tunables)
