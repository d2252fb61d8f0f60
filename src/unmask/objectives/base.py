"""The contract between the loop and an objective."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

Backward = Callable[[torch.Tensor], None]


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step leaves behind besides gradients.

    Attributes:
        loss: mean loss over `count` items.
        count: labels (MNTP) or texts (contrastive).
        metrics: more figures to log.
    """

    loss: float
    count: int
    metrics: dict[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """Anything that can turn one step's batch into gradients."""

    def step(self, model: Callable[..., torch.Tensor], batch: Any, backward: Backward) -> StepOutput:
        """Run forward and `backward` for the whole step, leaving gradients in place; the loop does the rest."""
        ...
