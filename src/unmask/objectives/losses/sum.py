"""Several losses at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from unmask.objectives.batch import ContrastiveBatch
from unmask.objectives.losses.base import Loss, LossOutput


@dataclass(frozen=True, slots=True)
class Sum:
    """The weighted sum of losses.

    Attributes:
        parts: each loss and its weight.
    """

    parts: tuple[tuple[Loss, float], ...]

    def backward(self, vectors: torch.Tensor, batch: ContrastiveBatch, weight: float = 1.0) -> LossOutput:
        """One loss after the other."""
        return combined([(loss.backward(vectors, batch, weight * share), share) for loss, share in self.parts])


def combined(outputs: Sequence[tuple[LossOutput, float]]) -> LossOutput:
    """Values summed with their weights; of metrics that share a name the last counts."""
    metrics: dict[str, float] = {}
    for output, _ in outputs:
        metrics |= output.metrics
    return LossOutput(sum(output.value * share for output, share in outputs), metrics)
