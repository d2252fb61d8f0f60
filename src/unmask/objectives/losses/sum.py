"""Several losses at once."""

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
        """One loss after the other; terms are logged without their weights, and of equal names the last counts."""
        value = 0.0
        terms: dict[str, float] = {}
        metrics: dict[str, float] = {}
        for loss, share in self.parts:
            output = loss.backward(vectors, batch, weight * share)
            value += output.value * share
            terms |= output.terms
            metrics |= output.metrics
        return LossOutput(value, terms, metrics)
