"""The contract between the loop and an objective."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step leaves behind besides gradients; the same in every process.

    Attributes:
        loss: mean loss over `count` items of all processes.
        count: labels (MNTP) or texts (contrastive).
        metrics: more figures to log.
    """

    loss: float
    count: int
    metrics: dict[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """How an objective runs the parts of one step: what is random in them, the backward pass, the other processes.

    A step is cut into numbered parts, each run by one process. What is random in a part follows from the number, so
    the step does not depend on which process runs it, and a part that is run twice is the same twice.

    Attributes:
        processes: how many share the step; the loop averages gradients over them.
    """

    processes: int

    def part(self, number: int, *, last: bool) -> AbstractContextManager[None]:
        """Run a part inside: torch is seeded for it, and only the `last` one exchanges gradients with the others."""
        ...

    def generator(self, number: int) -> torch.Generator:
        """A CPU generator for what is drawn about a part before it is run."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Leave the gradients of a scalar."""
        ...

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of `values` over all processes, without gradient."""
        ...


class Objective(Protocol):
    """Anything that can turn one process's share of a step into gradients."""

    def step(self, model: Callable[..., torch.Tensor], batch: Any, engine: Engine) -> StepOutput:
        """Run forward and backward for the share, leaving gradients in place; the loop does the rest."""
        ...
