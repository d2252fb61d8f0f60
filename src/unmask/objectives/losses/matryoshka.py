"""A loss at several widths of the vectors (Kusupati et al. 2022, arXiv 2205.13147)."""

from dataclasses import dataclass

import torch

from unmask.objectives.batch import ContrastiveBatch
from unmask.objectives.losses.base import Loss, LossOutput


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
        """One width after the other."""
        widths = (*self.widths, vectors.shape[1])
        share = 1 / len(widths)
        gradient = torch.zeros_like(vectors, requires_grad=False)
        outputs = []
        for width in widths:
            leaf = vectors[:, :width].detach().requires_grad_()
            outputs.append(self.loss.backward(leaf, batch, weight * share))
            assert leaf.grad is not None
            gradient[:, :width] += leaf.grad
        vectors.backward(gradient)
        terms = {name: sum(output.terms[name] for output in outputs) * share for name in outputs[-1].terms}
        return LossOutput(sum(output.value for output in outputs) * share, terms, outputs[-1].metrics)
