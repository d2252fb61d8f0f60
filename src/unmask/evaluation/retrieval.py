"""Retrieval where every query has one right document: is it near the top?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from unmask.encoder import TextEncoder
from unmask.errors import DataError


@dataclass(frozen=True, slots=True)
class RetrievalResult:
    """Share of queries whose document comes first, and mean reciprocal rank within the first 10, in percent."""

    accuracy_at_1: float
    mrr_at_10: float
    queries: int

    def to_dict(self) -> dict[str, float]:
        """For `--json`."""
        return asdict(self)


def evaluate_retrieval(
    encoder: TextEncoder, queries: Sequence[str], documents: Sequence[str], *, progress: bool = False
) -> RetrievalResult:
    """Rank all documents for each query by cosine; document i is the right one for query i.

    Ties count against the encoder: a document ranks behind all that score as high.

    Raises:
        DataError: unequal numbers of queries and documents, or none.
    """
    if len(queries) != len(documents) or not queries:
        raise DataError(f"{len(queries)} queries and {len(documents)} documents; every query needs its own.")
    found = encoder.encode(queries, normalize=True, progress=progress)
    scores = found @ encoder.encode(documents, normalize=True, progress=progress).T
    own = np.diagonal(scores)[:, None]
    ranks = (scores >= own).sum(axis=1)  # the document itself is one of them
    reciprocal = np.where(ranks <= 10, 1.0 / ranks, 0.0)
    return RetrievalResult(100 * float((ranks == 1).mean()), 100 * float(reciprocal.mean()), len(queries))
