"""Exact search by cosine over files of vectors: block after block, so that memory does not grow with their number."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from unmask.corpus.vectors import Rows, Vectors
from unmask.encoder import Floats
from unmask.errors import DataError

_BLOCK_BYTES = 2**26  # of a block of rows in float32, and of its scores
_QUERIES_AT_ONCE = 256
_CANDIDATES = 10  # rows that are rescored for each one that is wanted, where vectors are bits


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that was found.

    Attributes:
        cosine: between query and row.
        columns: what the file keeps of the row beside its vector, its id first.
    """

    cosine: float
    columns: dict[str, Any]


def search_vectors(vectors: Vectors, queries: Floats, count: int, *, progress: bool = False) -> list[list[Hit]]:
    """The rows nearest to each query, best first; of equal ones the earlier first.

    Args:
        vectors: what is searched.
        queries: float32 [queries, width], of any length but 0.
        count: how many rows a query gets, all of them where there are fewer.
        progress: show a bar.

    Raises:
        DataError: a row that is not finite, or a file that cannot be read.
    """
    cosines, rows = nearest(vectors, queries, count, progress=progress)
    wanted = np.unique(rows)
    kept = dict(zip(wanted.tolist(), vectors.columns(wanted), strict=True))
    return [
        [Hit(cosine, kept[row]) for cosine, row in zip(*one, strict=True)]
        for one in zip(cosines.tolist(), rows.tolist(), strict=True)
    ]


def nearest(vectors: Vectors, queries: Floats, count: int, *, progress: bool = False) -> tuple[Floats, Rows]:
    """Like `search_vectors`: cosines and numbers of rows from 0, [queries, at most count] each."""
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True).clip(min=1e-12)
    if vectors.precision != "binary":
        best = _scan(vectors, queries, count, progress=progress)
        return best.scores, best.rows
    near = _scan(vectors, np.packbits(queries > 0, axis=1), _CANDIDATES * count, progress=progress).rows
    return _rescored(vectors, queries, near, count)


def method(vectors: Vectors, count: int) -> str:
    """How a search goes about it, in words."""
    if vectors.precision != "binary":
        return f"exact search by cosine, {vectors.precision}"
    candidates = min(_CANDIDATES * count, vectors.rows)
    return f"the {candidates:,} rows with most bits as the query's, then the cosine of the query with their signs"


class _Best:
    """The best rows of each query so far, best first; of equal ones the earlier first."""

    def __init__(self, queries: int, count: int) -> None:
        self._count = count
        self._scores = [np.empty(0, dtype=np.float32) for _ in range(queries)]
        self._rows = [np.empty(0, dtype=np.int64) for _ in range(queries)]

    @property
    def scores(self) -> Floats:
        """Float32 [queries, rows kept]."""
        return np.stack(self._scores)

    @property
    def rows(self) -> Rows:
        """Their numbers."""
        return np.stack(self._rows)

    def add(self, query: int, first: int, scores: Floats) -> None:
        """One query's scores of the rows that follow on those added before; `first` is the number of the first."""
        known = self._scores[query]
        least = known[-1] if len(known) == self._count else -np.inf
        new = np.flatnonzero(scores > least)
        if len(new) > self._count:
            new = new[scores[new] >= np.partition(scores[new], -self._count)[-self._count]]
        together = np.concatenate([known, scores[new]])
        order = np.argsort(-together, kind="stable")[: self._count]
        self._scores[query] = together[order]
        self._rows[query] = np.concatenate([self._rows[query], first + new])[order]


def _scan(vectors: Vectors, queries: NDArray[Any], count: int, *, progress: bool) -> _Best:
    """All rows against all queries: by cosine, or bits by how many are equal."""
    score = _equal_bits if vectors.precision == "binary" else _cosines
    best = _Best(len(queries), min(count, vectors.rows))
    width = max(vectors.dimension, min(len(queries), _QUERIES_AT_ONCE))
    with tqdm(total=vectors.rows, unit="row", desc="searching", disable=not progress) as bar:
        for first, _, block in vectors.batches(max(1, _BLOCK_BYTES // (4 * width)), kept=False):
            for at in range(0, len(queries), _QUERIES_AT_ONCE):
                scores = score(queries[at : at + _QUERIES_AT_ONCE], block)
                broken = np.flatnonzero(np.isnan(scores[0]))
                if len(broken):
                    raise DataError(f"{vectors.place(first + int(broken[0]))} holds a number that is not finite.")
                for query, own in enumerate(scores, at):
                    best.add(query, first, own)
            bar.update(len(block))
    return best


def _cosines(queries: Floats, block: NDArray[Any]) -> Floats:
    """Of queries of length 1 with rows of any length, [queries, rows]; 0 for a row of zeros.

    What eight bits are scaled by, a number a row, does not change a cosine.
    """
    rows = block.astype(np.float32, copy=False)
    lengths: Floats = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    cosines: Floats = queries @ rows.T
    with np.errstate(invalid="ignore"):  # what is not finite is looked for by whoever asks
        cosines /= lengths.clip(min=1e-12)
    return cosines


def _equal_bits(queries: NDArray[np.uint8], block: NDArray[np.uint8]) -> Floats:
    """How many bits of each query and each row are equal, [queries, rows]."""
    wide = "<u8" if queries.shape[1] % 8 == 0 else "u1"  # eight bytes are counted as fast as one
    rows = np.ascontiguousarray(block).view(wide)
    equal = [np.bitwise_count(~(query ^ rows)).sum(axis=1, dtype=np.float32) for query in queries.view(wide)]
    return np.stack(equal)


def _rescored(vectors: Vectors, queries: Floats, near: Rows, count: int) -> tuple[Floats, Rows]:
    """The best of some rows of bits, by the cosine of the query, as it is, with their signs."""
    near = np.sort(near, axis=1)  # of equal ones the earlier is to come first
    wanted = np.unique(near)
    bits = vectors.take(wanted)
    scores, found = [], []
    for query, rows in zip(queries, near, strict=True):
        cosines = _cosines(query[None], vectors.floats(bits[np.searchsorted(wanted, rows)]))[0]
        order = np.argsort(-cosines, kind="stable")[:count]
        scores.append(cosines[order])
        found.append(rows[order])
    return np.stack(scores), np.stack(found)
