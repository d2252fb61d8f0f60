"""A loss at several widths of the vectors (Kusupati et al. 2022, arXiv 2205.13147)."""

from dataclasses import dataclass

import torch

from unmask.objectives.batch import ContrastiveBatch
from unmask.objectives.losses.base import Loss, LossOutput
from unmask.objectives.losses.sum import combined


@dataclass(frozen=True, slots=True)
class Matryoshka:
    """Another loss, averaged over the first so many dimensions and all of them.

    Attributes:
        loss: the loss at each width.
        widths: besides the whole one; each less than it.
    """

    loss: Loss
    widths: tuple[int, ...]

    def backward(self, vectors: torch.Tensor, batch: ContrastiveBatch, weight: float = 1.0) -> LossOutput:
        """One width after the other; metrics are those of the whole width."""
        widths = (*self.widths, vectors.shape[1])
        share = 1 / len(widths)
        gradient = torch.zeros_like(vectors, requires_grad=False)
        outputs = []
        for width in widths:
            leaf = vectors[:, :width].detach().requires_grad_()
            outputs.append((self.loss.backward(leaf, batch, weight * share), share))
            assert leaf.grad is not None
            gradient[:, :width] += leaf.grad
        vectors.backward(gradient)
        return combined(outputs)
