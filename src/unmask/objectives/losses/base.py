"""The contract between the contrastive objective and a loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from unmask.objectives.batch import ContrastiveBatch

ANCHORS_AT_ONCE = 1024  # rows of the score matrix that exist at a time


@dataclass(frozen=True, slots=True)
class LossOutput:
    """What a loss found, before its weight.

    Attributes:
        value: mean over the anchors of the step.
        terms: parts of the value by name, to log; Matryoshka averages them as it does the value.
        metrics: more figures to log; Matryoshka keeps those of the whole width.
    """

    value: float
    terms: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class Loss(Protocol):
    """Anything that turns the vectors of a step into a gradient with respect to them."""

    def backward(self, vectors: torch.Tensor, batch: ContrastiveBatch, weight: float = 1.0) -> LossOutput:
        """Add the gradient of `weight` times the loss to `vectors.grad`.

        It may run backward a chunk of anchors at a time, which bounds the memory of the scores.

        Args:
            vectors: of all rows of the step, a float32 leaf [rows, width]; autocast is off.
            batch: says which row is what.
            weight: factor on the gradient, not on what is returned.
        """
        ...


def anchor_chunks(count: int) -> tuple[torch.Tensor, ...]:
    """The numbers of so many anchors, in pieces whose scores fit in memory."""
    return torch.arange(count).split(ANCHORS_AT_ONCE)


@contextmanager
def normalized(vectors: torch.Tensor) -> Iterator[torch.Tensor]:
    """The vectors at length 1, as a leaf whose gradient is passed on to `vectors` when the block ends."""
    unit = nn.functional.normalize(vectors, dim=-1)
    leaf = unit.detach().requires_grad_()
    yield leaf
    unit.backward(leaf.grad)
