"""Contrastive learning: InfoNCE in float32 over in-batch negatives. SimCSE is two dropout views of one text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from unmask.objectives.base import Backward, StepOutput

if TYPE_CHECKING:
    from unmask.text.batching import PaddedBatch


def info_nce(anchors: torch.Tensor, positives: torch.Tensor, *, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of finding each anchor's positive among all positives of the batch.

    van den Oord et al. 2018 (arXiv 1807.03748); cosine similarity times `scale` (1 / temperature), all in float32,
    also under autocast: bfloat16 cannot tell cosines near 1 apart.

    Args:
        anchors: [texts, width].
        positives: [texts, width]; row i belongs to anchor i.
        scale: factor on the cosine.

    Returns:
        Mean loss and the share of anchors whose positive scores highest.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        anchors = nn.functional.normalize(anchors.float(), dim=-1)
        positives = nn.functional.normalize(positives.float(), dim=-1)
        scores = anchors @ positives.T * scale
        targets = torch.arange(len(scores), device=scores.device)
        loss = nn.functional.cross_entropy(scores, targets)
    return loss, (scores.detach().argmax(dim=1) == targets).float().mean()


@dataclass(frozen=True, slots=True)
class ViewBatch:
    """Both views of every text of a step.

    Attributes:
        parts: padded batches of like length; together they hold each text twice.
        order: puts the concatenated vectors back: first views, then second views, int64 [2 x texts].
    """

    parts: Sequence["PaddedBatch"]
    order: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """Real tokens of both views."""
        return sum(part.num_tokens for part in self.parts)


class SimCSE:
    """Unsupervised SimCSE (Gao et al. 2021, arXiv 2104.08821): the positive of a text is itself, dropped out anew.

    Args:
        scale: 1 / temperature; 20 in the released code of the paper.
    """

    def __init__(self, scale: float = 20.0) -> None:
        self.scale = scale

    def step(self, model: Callable[["PaddedBatch"], torch.Tensor], batch: ViewBatch, backward: Backward) -> StepOutput:
        """One forward over all views, one loss, one backward."""
        vectors = torch.cat([model(part) for part in batch.parts])[batch.order]
        first, second = vectors.chunk(2)
        loss, accuracy = info_nce(first, second, scale=self.scale)
        backward(loss)
        metrics = {"accuracy": float(accuracy), "positive_cosine": _mean_cosine(first, second)}
        return StepOutput(float(loss.detach()), len(first), metrics)


@torch.no_grad()
def _mean_cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(nn.functional.cosine_similarity(first.float(), second.float()).mean())
