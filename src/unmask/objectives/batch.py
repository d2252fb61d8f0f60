"""One step of contrastive training, as the objective runs it and its loss reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

NO_DOCUMENT = -1


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
