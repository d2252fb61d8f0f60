"""Contrastive learning: InfoNCE in float32 over in-batch and hard negatives. SimCSE is two dropout views of one text.

Every process knows all vectors of a step and computes the whole loss; its backward pass then goes into its own
vectors. That is the gradient of one big batch, and it is also GradCache (Gao et al. 2021, arXiv 2101.06983): the
parts of a step may be run once with their graphs kept, or twice without.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unmask.objectives.base import Engine, StepOutput

NO_DOCUMENT = -1
_ANCHORS_AT_ONCE = 1024  # rows of the score matrix that exist at a time
Model = Callable[[Any], torch.Tensor]


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
        teacher: a teacher's vectors of this process's rows in the order of its parts, float32 [own rows, width].
    """

    parts: Sequence[Part]
    anchors: int
    texts: torch.Tensor
    documents: torch.Tensor
    owners: torch.Tensor
    sources: torch.Tensor
    teacher: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """Some anchors against all candidates.

    Attributes:
        logits: scaled cosines, float32 [anchors, candidates]; -inf where a candidate does not count.
        targets: the column of each anchor's positive, int64 [anchors].
    """

    logits: torch.Tensor
    targets: torch.Tensor

    def loss(self) -> torch.Tensor:
        """Summed cross-entropy of finding the positives."""
        return nn.functional.cross_entropy(self.logits, self.targets, reduction="sum")

    def right(self) -> torch.Tensor:
        """How many anchors score their positive highest."""
        return (self.logits.detach().argmax(dim=1) == self.targets).sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoNce:
    """What counts as a negative, and how scores become a loss (van den Oord et al. 2018, arXiv 1807.03748).

    Attributes:
        scale: factor on the cosine, 1 / temperature.
        both_directions: positives also look for their anchor among all anchors; the two losses are averaged.
        mask_duplicates: a candidate does not count where its text is the anchor's or its positive's, or where it is the
            positive of an equal anchor (a query with several positives).
        mask_same_document: nor where it comes from the document of the positive.
        false_negative_margin: nor where its cosine exceeds the positive's by more than this, unless it is a hard
            negative of this very anchor; None: all count.
        matryoshka: also at the first so many dimensions, averaged (Kusupati et al. 2022, arXiv 2205.13147).
    """

    scale: float = 20.0
    both_directions: bool = False
    mask_duplicates: bool = True
    mask_same_document: bool = True
    false_negative_margin: float | None = None
    matryoshka: tuple[int, ...] = ()

    def scores(self, vectors: torch.Tensor, batch: ContrastiveBatch) -> Iterator[Scores]:
        """Scores a chunk of anchors at a time.

        Args:
            vectors: of all rows of the step, each of length 1, float32 [rows, width].
            batch: says which row is what.
        """
        n = batch.anchors
        yield from self._direction(vectors, batch, torch.arange(n), torch.arange(n, len(vectors)))
        if self.both_directions:
            yield from self._direction(vectors, batch, torch.arange(n, 2 * n), torch.arange(n))

    def _direction(
        self, vectors: torch.Tensor, batch: ContrastiveBatch, anchors: torch.Tensor, candidates: torch.Tensor
    ) -> Iterator[Scores]:
        """The i-th anchor's positive is the i-th candidate."""
        for chunk in torch.arange(len(anchors)).split(_ANCHORS_AT_ONCE):
            cosines = vectors[anchors[chunk]] @ vectors[candidates].T
            targets = chunk.to(vectors.device)
            hidden = self._hidden(cosines.detach(), batch, anchors[chunk], candidates, chunk)
            yield Scores((cosines * self.scale).masked_fill(hidden, -torch.inf), targets)

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


class Contrastive:
    """The objective of SimCSE and of supervised training.

    Args:
        loss: what counts as a negative.
        grad_cache: run parts twice instead of keeping their graphs, so that memory does not grow with the batch
            (Gao et al. 2021, arXiv 2101.06983).
        kept_graphs: of how many parts, the last ones, the graph is kept even so; they need not run again.
        teacher_weight: how much the distance to a teacher's distribution over the candidates counts, if there is one.
        teacher_scale: factor on the teacher's cosines.
    """

    def __init__(
        self,
        loss: InfoNce | None = None,
        *,
        grad_cache: bool = False,
        kept_graphs: int = 1,
        teacher_weight: float = 1.0,
        teacher_scale: float = 20.0,
    ) -> None:
        self.loss = loss or InfoNce()
        self.grad_cache = grad_cache
        self.kept_graphs = kept_graphs
        self.teacher_weight = teacher_weight
        self.teacher_scale = teacher_scale

    def step(self, model: Model, batch: ContrastiveBatch, engine: Engine) -> StepOutput:
        """Vectors of all rows, one loss, gradients into the parts of this process."""
        parts = batch.parts
        own = torch.cat([part.rows for part in parts])
        again = max(0, len(parts) - self.kept_graphs) if self.grad_cache else 0  # how many run twice
        vectors = self._run(model, parts, engine, again)
        rows = len(batch.texts)
        everything = _everywhere(torch.cat([v.detach() for v in vectors]), own, rows, engine)[batch.sources]
        everything.requires_grad_()
        teacher = None if batch.teacher is None else _everywhere(batch.teacher, own, rows, engine)[batch.sources]
        loss, metrics = self._gradients(everything, teacher, batch)
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
        return StepOutput(loss, batch.anchors, metrics)

    def _run(self, model: Model, parts: Sequence[Part], engine: Engine, again: int) -> list[torch.Tensor]:
        """Vectors of all parts; without a graph those of the first `again`."""
        vectors = []
        for number, part in enumerate(parts):
            last = part is parts[-1] and not again
            with engine.part(part.number, last=last), torch.set_grad_enabled(number >= again):
                vectors.append(model(part.batch))
        return vectors

    def _gradients(
        self, vectors: torch.Tensor, teacher: torch.Tensor | None, batch: ContrastiveBatch
    ) -> tuple[float, dict[str, float]]:
        """Leave the loss's gradient in `vectors.grad`; at every width, a chunk of anchors at a time."""
        widths = (*self.loss.matryoshka, vectors.shape[1])
        losses = 2 if self.loss.both_directions else 1
        share = 1 / (batch.anchors * losses * len(widths))
        total, right, distance = 0.0, 0, 0.0
        with torch.autocast(vectors.device.type, enabled=False):
            for width in widths:
                unit = nn.functional.normalize(vectors[:, :width].float(), dim=-1)
                leaf = unit.detach().requires_grad_()
                for scores in self.loss.scores(leaf, batch):
                    loss = scores.loss() * share
                    loss.backward()
                    total += float(loss.detach())
                    right += int(scores.right()) if width == vectors.shape[1] else 0
                if teacher is not None:
                    distance += self._distill(leaf, teacher, batch, 1 / (batch.anchors * len(widths)))
                unit.backward(leaf.grad)
        metrics = {"accuracy": right / (batch.anchors * losses), "positive_cosine": _mean_cosine(vectors, batch)}
        if teacher is not None:
            metrics["teacher_distance"] = distance
        return total + self.teacher_weight * distance, metrics

    def _distill(self, leaf: torch.Tensor, teacher: torch.Tensor, batch: ContrastiveBatch, share: float) -> float:
        """A share of the summed KL divergence from the teacher's distribution over the candidates to the student's.

        Widths may differ, because only cosines are compared (as in Hofstaetter et al. 2021, arXiv 2104.06967).
        """
        n, total = batch.anchors, 0.0
        fixed = nn.functional.normalize(teacher.float(), dim=-1)
        for chunk in torch.arange(n).split(_ANCHORS_AT_ONCE):
            student = nn.functional.log_softmax(leaf[chunk] @ leaf[n:].T * self.loss.scale, dim=1)
            wanted = nn.functional.log_softmax(fixed[chunk] @ fixed[n:].T * self.teacher_scale, dim=1)
            loss = nn.functional.kl_div(student, wanted, log_target=True, reduction="sum") * share
            (loss * self.teacher_weight).backward()
            total += float(loss.detach())
        return total


def _everywhere(own: torch.Tensor, rows: torch.Tensor, total: int, engine: Engine) -> torch.Tensor:
    """All rows of the step in every process, float32, from the rows that each has."""
    placed = own.new_zeros((total, own.shape[1]), dtype=torch.float32)
    placed[rows] = own.float()
    return engine.total(placed)


@torch.no_grad()
def _mean_cosine(vectors: torch.Tensor, batch: ContrastiveBatch) -> float:
    n = batch.anchors
    return float(nn.functional.cosine_similarity(vectors[:n], vectors[n : 2 * n]).mean())
