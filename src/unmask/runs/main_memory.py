"""The main memory that a run may take: the machine's, or less where a container or a service limits it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

# Controller in /proc/self/cgroup -> where its groups lie, their limit, what they use, and what of it is cache of files.
_VERSIONS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


@dataclass(frozen=True, slots=True)
class MainMemory:
    """Bytes.

    Attributes:
        total: that there are at most.
        free: that are not in use; files that the system has cached give way.
    """

    total: int
    free: int


def main_memory(root: Path = Path("/")) -> MainMemory:
    """What the machine has, or the tightest of the control groups that this process is in (Linux, versions 1 and 2).

    Args:
        root: above `proc` and `sys`.
    """
    machine = psutil.virtual_memory()
    limits = list(_limits(root))
    total = min([int(machine.total), *(limit for limit, _ in limits)])
    free = min([int(machine.available), *(max(0, limit - used) for limit, used in limits)])
    return MainMemory(total, free)


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of each control group with a limit, from this process's own up to the root."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:  # another system
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        version = next((name for name in controllers.split(",") if name in _VERSIONS), None)
        if version is None:
            continue
        mount, limit, usage, cache = _VERSIONS[version]
        group = Path(own.strip("/"))  # a container may not see its own, and has it as the root
        for folder in (root / mount / part for part in (group, *group.parents)):
            most = _number(folder / limit)
            if most is not None:
                yield most, max(0, (_number(folder / usage) or 0) - _cached(folder / "memory.stat", cache))


def _number(path: Path) -> int | None:
    """What a file of one number holds; None for `max`, and where there is no such file."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _cached(path: Path, key: str) -> int:
    try:
        facts = dict(line.split(maxsplit=1) for line in path.read_text(encoding="ascii").splitlines())
        return int(facts.get(key, 0))
    except (OSError, ValueError):
        return 0
