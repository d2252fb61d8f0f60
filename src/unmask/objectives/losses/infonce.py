"""InfoNCE over in-batch and hard negatives (van den Oord et al. 2018, arXiv 1807.03748)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from unmask.objectives.batch import NO_DOCUMENT, ContrastiveBatch
from unmask.objectives.losses.base import LossOutput, anchor_chunks, normalized


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoNce:
    """Cross-entropy of finding each anchor's positive among the candidates that count.

    Attributes:
        scale: factor on the cosine, 1 / temperature.
        both_directions: positives also look for their anchor among all anchors; the two losses are averaged.
        mask_duplicates: a candidate does not count where its text is the anchor's or its positive's, or where it is the
            positive of an equal anchor (a query with several positives).
        mask_same_document: nor where it comes from the document of the positive.
        false_negative_margin: nor where its cosine exceeds the positive's by more than this, unless it is a hard
            negative of this very anchor; None: all count.
    """

    scale: float = 20.0
    both_directions: bool = False
    mask_duplicates: bool = True
    mask_same_document: bool = True
    false_negative_margin: float | None = None

    def backward(self, vectors: torch.Tensor, batch: ContrastiveBatch, weight: float = 1.0) -> LossOutput:
        """Summed over chunks of anchors; `accuracy` is the share of anchors that score their positive highest."""
        count = batch.anchors * (2 if self.both_directions else 1)
        total, right = 0.0, 0
        with normalized(vectors) as unit:
            for logits, targets in self._scores(unit, batch):
                loss = nn.functional.cross_entropy(logits, targets, reduction="sum") * (weight / count)
                loss.backward()
                total += float(loss.detach())
                right += int((logits.detach().argmax(dim=1) == targets).sum())
        return LossOutput(total / weight, metrics={"accuracy": right / count})

    def _scores(self, unit: torch.Tensor, batch: ContrastiveBatch) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A chunk of anchors at a time: logits [anchors, candidates] and the column of each anchor's positive."""
        n = batch.anchors
        yield from self._direction(unit, batch, torch.arange(n), torch.arange(n, len(unit)))
        if self.both_directions:
            yield from self._direction(unit, batch, torch.arange(n, 2 * n), torch.arange(n))

    def _direction(
        self, unit: torch.Tensor, batch: ContrastiveBatch, anchors: torch.Tensor, candidates: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The i-th anchor's positive is the i-th candidate; a candidate that does not count has a logit of -inf."""
        for chunk in anchor_chunks(len(anchors)):
            cosines = unit[anchors[chunk]] @ unit[candidates].T
            hidden = self._hidden(cosines.detach(), batch, anchors[chunk], candidates, chunk)
            yield (cosines * self.scale).masked_fill(hidden, -torch.inf), chunk.to(unit.device)

    def _hidden(
        self,
        cosines: torch.Tensor,
        batch: ContrastiveBatch,
        anchors: torch.Tensor,
        candidates: torch.Tensor,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        """True where a candidate does not count for an anchor; never its own positive."""
        hidden = torch.zeros(cosines.shape, dtype=torch.bool, device=cosines.device)
        own, others = batch.owners[anchors][:, None], batch.owners[candidates][None]
        if self.mask_duplicates:
            texts, n = batch.texts, batch.anchors
            same_pair = (texts[own] == texts[others]) | (texts[own + n] == texts[others + n])
            hidden |= same_pair & (candidates < 2 * n).to(hidden.device)
            hidden |= (texts[candidates] == texts[own]) | (texts[candidates] == texts[own + n])
        if self.mask_same_document:
            document = batch.documents[own]
            hidden |= (document == batch.documents[candidates]) & (document != NO_DOCUMENT)
        rows = torch.arange(len(targets))
        if self.false_negative_margin is not None:
            close = cosines > cosines[rows, targets][:, None] + self.false_negative_margin
            hidden |= close & (own != others)
        hidden[rows, targets] = False
        return hidden
