"""What every fast path promises: it says whether it is available and why not, comes and goes, and can test itself.

`UNMASK_FAST` chooses: 0 for none, a list of names (`flat,prepack`) for these alone; by default all that are available.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from unmask.errors import ArtifactError

NAMES = ("flat", "products", "prepack", "compile", "lora", "masks")


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a path is taken, and if not why; true or false like a bool."""

    available: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.available

    def __str__(self) -> str:
        return "yes" if self.available else f"no: {self.reason}"


class FastPath:
    """One way to be faster; what is only asked for at each use has nothing to attach.

    Attributes:
        name: one of `NAMES`.
    """

    name: str

    def available(self, model: nn.Module) -> Availability:
        """Whether this model, on this machine with this torch, can take the path."""
        return wanted(self.name)

    def attach(self, model: nn.Module) -> None:
        """Let the model take it, in place."""

    def detach(self, model: nn.Module) -> None:
        """Leave the model as it was before `attach`."""

    def self_test(self) -> float:
        """How far the path is from the plain way on random input, relative to its size (Frobenius norms)."""
        raise NotImplementedError


def chosen(asked: bool | Collection[str] | None = None) -> frozenset[str]:
    """The paths that may be taken.

    Args:
        asked: True for all, False for none, names for these; None for what the environment says.

    Raises:
        ArtifactError: a name that no path has.
    """
    if asked is None:
        words = (os.environ.get("UNMASK_FAST") or "1").replace(",", " ").split()
        asked = {"1": True, "0": False}.get(words[0], words) if len(words) == 1 else words
    if isinstance(asked, bool):
        return frozenset(NAMES if asked else ())
    unknown = sorted(set(asked) - set(NAMES))
    if unknown:
        raise ArtifactError(f"There is no fast path {unknown[0]!r}; choose from {', '.join(NAMES)}.")
    return frozenset(asked)


def wanted(name: str, asked: bool | Collection[str] | None = None) -> Availability:
    """Whether a path may be taken at all; `asked` as in `chosen`."""
    if name in chosen(asked):
        return Availability(True)
    return Availability(False, "UNMASK_FAST leaves it out" if asked is None else "fast leaves it out")
