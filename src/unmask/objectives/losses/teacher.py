"""Following a teacher's ranking of the candidates (as in Hofstaetter et al. 2021, arXiv 2104.06967)."""

from dataclasses import dataclass

import torch
from torch import nn

from unmask.objectives.batch import ContrastiveBatch
from unmask.objectives.losses.base import LossOutput, anchor_chunks, normalized

TEACHER = "teacher"  # the name of its vectors in a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """KL divergence from a teacher's distribution over the candidates to the student's, a mean over anchors.

    Widths may differ, because only cosines are compared.

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
            for chunk in anchor_chunks(n):
                student = nn.functional.log_softmax(unit[chunk] @ unit[n:].T * self.scale, dim=1)
                wanted = nn.functional.log_softmax(fixed[chunk] @ fixed[n:].T * self.teacher_scale, dim=1)
                loss = nn.functional.kl_div(student, wanted, log_target=True, reduction="sum") / n
                (loss * weight).backward()
                total += float(loss.detach())
        return LossOutput(total, terms={"teacher_distance": total})
