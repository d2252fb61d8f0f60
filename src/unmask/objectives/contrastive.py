"""Contrastive learning: a loss over the vectors of a whole step. SimCSE is two dropout views of one text.

Every process knows all vectors of a step and computes the whole loss; its backward pass then goes into its own
vectors. That is the gradient of one big batch, and it is also GradCache (Gao et al. 2021, arXiv 2101.06983): the
parts of a step may be run once with their graphs kept, or twice without.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from unmask.objectives.base import Engine, StepOutput
from unmask.objectives.losses import ContrastiveBatch, InfoNce, Loss, Part

Model = Callable[[Any], torch.Tensor]


class Contrastive:
    """The objective of SimCSE and of supervised training.

    Args:
        loss: of the vectors of a step; InfoNCE if none is given.
        grad_cache: run parts twice instead of keeping their graphs, so that memory does not grow with the batch
            (Gao et al. 2021, arXiv 2101.06983).
        kept_graphs: of how many parts, the last ones, the graph is kept even so; they need not run again.
    """

    def __init__(self, loss: Loss | None = None, *, grad_cache: bool = False, kept_graphs: int = 1) -> None:
        self.loss: Loss = loss or InfoNce()
        self.grad_cache = grad_cache
        self.kept_graphs = kept_graphs

    def step(self, model: Model, batch: ContrastiveBatch, engine: Engine) -> StepOutput:
        """Vectors of all rows, one loss, gradients into the parts of this process."""
        parts = batch.parts
        own = torch.cat([part.rows for part in parts])
        again = max(0, len(parts) - self.kept_graphs) if self.grad_cache else 0  # how many run twice
        vectors = self._run(model, parts, engine, again)
        rows = len(batch.texts)
        everything = _everywhere(torch.cat([v.detach() for v in vectors]), own, rows, engine)[batch.sources]
        everything.requires_grad_()
        extra = {name: _everywhere(one, own, rows, engine)[batch.sources] for name, one in batch.extra.items()}
        with torch.autocast(everything.device.type, enabled=False):
            out = self.loss.backward(everything, replace(batch, extra=extra))
        assert everything.grad is not None
        gradients = torch.zeros_like(everything).index_add_(0, batch.sources, everything.grad)
        # Every process leaves the gradients of its own rows; the loop averages over processes where a sum is meant.
        wanted = (gradients[own] * engine.processes).split([len(part.rows) for part in parts])
        if again < len(parts):  # first what has a graph, which is gone then
            with engine.part(parts[-1].number, last=not again):
                pairs = zip(vectors[again:], wanted[again:], strict=True)
                engine.backward(torch.stack([(v * gradient).sum() for v, gradient in pairs]).sum())
        for number, (part, gradient) in enumerate(zip(parts[:again], wanted[:again], strict=True)):
            with engine.part(part.number, last=number == again - 1):
                engine.backward((model(part.batch) * gradient).sum())
        anchors, positives = everything.detach()[: 2 * batch.anchors].split(batch.anchors)
        cosine = float(nn.functional.cosine_similarity(anchors, positives).mean())
        return StepOutput(out.value, batch.anchors, {**out.metrics, **out.terms, "positive_cosine": cosine})

    def _run(self, model: Model, parts: Sequence[Part], engine: Engine, again: int) -> list[torch.Tensor]:
        """Vectors of all parts; without a graph those of the first `again`."""
        vectors = []
        for number, part in enumerate(parts):
            last = part is parts[-1] and not again
            with engine.part(part.number, last=last), torch.set_grad_enabled(number >= again):
                vectors.append(model(part.batch))
        return vectors


def _everywhere(own: torch.Tensor, rows: torch.Tensor, total: int, engine: Engine) -> torch.Tensor:
    """All rows of the step in every process, float32, from the rows that each has."""
    placed = own.new_zeros((total, own.shape[1]), dtype=torch.float32)
    placed[rows] = own.float()
    return engine.total(placed)
