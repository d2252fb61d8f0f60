"""What the contrastive objective minimises: one step as a loss reads it, and the losses, all on one protocol.

They can be summed and taken at several widths.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

ANCHORS_AT_ONCE = 1024  # rows of the score matrix that exist at a time
_CANDIDATES_AT_ONCE = 8192  # that are looked up among the pairs at a time
NO_DOCUMENT = -1
TEACHER = "teacher"  # the name of its vectors in a batch


@dataclass(frozen=True, slots=True)
class Part:
    """Texts of one forward pass: its number within the step, the padded texts, and which rows of the step they are."""

    number: int
    batch: Any
    rows: torch.Tensor


@dataclass(frozen=True, slots=True)
class ContrastiveBatch:
    """One step. Its rows are the anchors, the positive of each in the same order, then all hard negatives.

    Attributes:
        parts: what this process runs.
        anchors: how many anchors the step has, in all processes.
        texts: for each row of the step a number that equal texts share, int64 [rows].
        documents: likewise for documents, int64 [rows]; `NO_DOCUMENT` where it is unknown. A query has its positive's.
        owners: for each row the anchor that it is, is the positive of, or is a hard negative of; int64 [rows].
        sources: for each row the row whose vector it has; others than these are in no part. int64 [rows].
        extra: further vectors by name, such as a teacher's, float32 [rows, any width]. A loss sees those of all rows of
            the step; the objective is given those of this process's rows, in the order of its parts.
    """

    parts: Sequence[Part]
    anchors: int
    texts: torch.Tensor
    documents: torch.Tensor
    owners: torch.Tensor
    sources: torch.Tensor
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def are_pairs(self, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        """True where some row of the step has this text for its anchor and that one for its positive.

        Args:
            queries: numbers of texts, int64; the shapes broadcast.
            documents: likewise.
        """
        base = self.texts.max() + 1
        known = (self.texts[: self.anchors] * base + self.texts[self.anchors : 2 * self.anchors]).sort().values
        asked = queries * base + documents
        places = torch.searchsorted(known, asked).clamp(max=self.anchors - 1)
        return known[places] == asked


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


@contextmanager
def normalized(vectors: torch.Tensor) -> Iterator[torch.Tensor]:
    """The vectors at length 1, as a leaf whose gradient is passed on to `vectors` when the block ends."""
    unit = nn.functional.normalize(vectors, dim=-1)
    leaf = unit.detach().requires_grad_()
    yield leaf
    unit.backward(leaf.grad)


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoNce:
    """InfoNCE over in-batch and hard negatives (van den Oord et al. 2018, arXiv 1807.03748).

    Cross-entropy of finding each anchor's positive among the candidates that count.

    Attributes:
        scale: factor on the cosine, 1 / temperature.
        both_directions: positives also look for their anchor among all anchors; the two losses are averaged.
        mask_duplicates: a candidate does not count where its text is the anchor's or its positive's, nor where a row of
            the batch has it and the anchor, or it and the positive, for a pair (a query with several positives).
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
        for chunk in torch.arange(len(anchors)).split(ANCHORS_AT_ONCE):
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
            query, positive = batch.texts[own], batch.texts[own + batch.anchors]
            for part in torch.arange(len(candidates)).split(_CANDIDATES_AT_ONCE):
                found = batch.texts[candidates[part]][None]
                known = batch.are_pairs(query, found) | batch.are_pairs(found, positive)
                hidden[:, part] |= (found == query) | (found == positive) | known
        if self.mask_same_document:
            document = batch.documents[own]
            hidden |= (document == batch.documents[candidates]) & (document != NO_DOCUMENT)
        rows = torch.arange(len(targets))
        if self.false_negative_margin is not None:
            close = cosines > cosines[rows, targets][:, None] + self.false_negative_margin
            hidden |= close & (own != others)
        hidden[rows, targets] = False
        return hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """KL divergence from a teacher's distribution over the candidates to the student's, a mean over anchors.

    As in Hofstaetter et al. 2021 (arXiv 2104.06967). Widths may differ, because only cosines are compared.

    Attributes:
        scale: factor on the student's cosines.
        teacher_scale: factor on the teacher's.
    """

    scale: float = 20.0
    teacher_scale: float = 20.0

    def backward(self, vectors: torch.Tensor, batch: ContrastiveBatch, weight: float = 1.0) -> LossOutput:
        """A chunk of anchors at a time; the value is also the term `teacher_distance`."""
        n, total = batch.anchors, 0.0
        fixed = nn.functional.normalize(batch.extra[TEACHER].float(), dim=-1)
        with normalized(vectors) as unit:
            for chunk in torch.arange(n).split(ANCHORS_AT_ONCE):
                student = nn.functional.log_softmax(unit[chunk] @ unit[n:].T * self.scale, dim=1)
                wanted = nn.functional.log_softmax(fixed[chunk] @ fixed[n:].T * self.teacher_scale, dim=1)
                loss = nn.functional.kl_div(student, wanted, log_target=True, reduction="sum") / n
                (loss * weight).backward()
                total += float(loss.detach())
        return LossOutput(total, terms={"teacher_distance": total})


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


@dataclass(frozen=True, slots=True)
class Matryoshka:
    """Another loss, averaged over the first so many dimensions and all of them.

    See Kusupati et al. 2022 (arXiv 2205.13147).

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
