"""How OpenMP's threads wait for each other; no torch here, because OpenMP asks the environment when torch loads it.

By itself a thread that has finished its part of a product spins for milliseconds until the others have. That is fast
while each has a processor of its own. Where another process is busy, the one that is waited for may have none, and
gets none because the others spin: the same work then takes ten times as long. Threads that soon sleep leave it theirs.
"""

import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

# GNU's OpenMP (torch's wheels for Linux): a fraction of a millisecond, because to sleep at once makes small models a
# fifth slower on an idle machine (benchmarks/loaded.py). LLVM's and Intel's (macOS, conda): a millisecond.
WAITING = {"GOMP_SPINCOUNT": "4000", "KMP_BLOCKTIME": "1"}
_ALSO = ("OMP_WAIT_POLICY", "KMP_LIBRARY")  # by these a user says the same
_SECONDS = 1.0  # between two looks at what else runs


@dataclass(frozen=True, slots=True)
class _Look:
    """Seconds of the clock, and of processor time: of the whole machine, and of this process."""

    clock: float
    machine: float
    own: float


_too_late = False
_last: _Look | None = None


def wait_briefly() -> None:
    """Say in the environment how threads wait, unless it says so already or torch has read it."""
    global _too_late
    if any(name in os.environ for name in (*WAITING, *_ALSO)):
        return
    _too_late = "torch" in sys.modules
    if not _too_late:
        os.environ.update(WAITING)


def look_around(device: str) -> None:
    """Say once that another process slows this one down, if torch was loaded too early to tell its threads.

    To be called between pieces of work: what else ran is known between two calls a second apart. Nothing is asked
    where threads sleep, and no more than once a second.

    Args:
        device: type of the device that works; on a GPU threads hardly wait.
    """
    global _too_late, _last
    if not _too_late or device != "cpu" or (_last is not None and time.perf_counter() - _last.clock < _SECONDS):
        return
    before, _last = _last, _look()
    if _last is None:
        _too_late = False  # the system does not tell, and will not later
    elif before is not None and _crowded(before, _last):
        _too_late = False  # once is enough
        if "libgomp" in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace"):
            logger.warning(
                "Another process is busy, and torch's threads spin while they wait for each other, which can make this "
                "ten times as slow. Import unmask before torch, or set GOMP_SPINCOUNT=4000 in the environment."
            )


def _look() -> _Look | None:
    """What has run so far; None where the system does not tell."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, interrupts, more = map(int, file.readline().split()[1:8])
    except (OSError, ValueError):
        return None
    ticks = user + nice + system + interrupts + more
    return _Look(time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time())


def _crowded(before: _Look, now: _Look) -> bool:
    """Whether others took so much that torch's threads cannot each have had a processor."""
    import torch

    threads = torch.get_num_threads()
    others = (now.machine - before.machine - now.own + before.own) / (now.clock - before.clock)
    return threads > 1 and others > max(0, (os.cpu_count() or 1) - threads) + 0.5
