"""Hard negatives: for each query, documents of a corpus that score high and do not answer it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unmask.data.pairs import Pair
from unmask.encoder import Floats, TextEncoder, search
from unmask.errors import DataError
from unmask.files import write_whole
from unmask.text.chunks import chunks

Choice = Literal["top", "random"]
_PAIRS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which documents may be a query's negatives.

    Attributes:
        count: negatives a query.
        first: skip so many of the best documents; the very best are often unlabelled answers.
        last: look no deeper than this rank.
        margin: a negative's cosine must stay this far below the positive's; None: no such bound.
        share: a negative's cosine must stay below this share of the positive's (0.95 in NV-Retriever, Moreira et al.
            2024, arXiv 2407.15831); None: no such bound.
        choice: the best that are left, or drawn from them.
    """

    count: int = 1
    first: int = 0
    last: int = 100
    margin: float | None = None
    share: float | None = None
    choice: Choice = "top"

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last or self.count < 1:
            raise DataError(
                f"Ranks {self.first + 1} to {self.last} with {self.count} negatives a query: there is none to choose."
            )


@dataclass(frozen=True, slots=True)
class Mined:
    """What was found: pairs with negatives written, pairs with fewer than asked for, pairs with none (left out)."""

    pairs: int
    fewer: int
    none: int


def mine(
    encoder: TextEncoder,
    pairs: Sequence[Pair],
    corpus: Sequence[str],
    out: Path,
    *,
    filters: Filters,
    prompt: str | None = None,
    document_prompt: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Mined:
    """Write each pair with its hard negatives, one JSON object a line; the file appears when it is whole.

    Exact search by cosine over the whole corpus. No negative is a document that is the text of the query, of one of its
    positives, or of a positive from the same document (`Pair.document`). Negatives that the pairs have are replaced; a
    pair none of whose candidates passes the filters is left out.

    Args:
        encoder: gives the vectors.
        pairs: queries with positives; a query may have several.
        corpus: documents; equal ones count once.
        out: jsonl with query, positive, negatives, and the cosines of each.
        filters: which documents may be negatives.
        prompt: instruction in front of queries; by default the one that is saved for them.
        document_prompt: instruction in front of documents; likewise.
        seed: of what is drawn at random.
        progress: show bars.

    Raises:
        DataError: no pair or no document.
    """
    if not pairs or not corpus:
        raise DataError(f"{len(pairs)} pairs and {len(corpus)} documents; both are needed.")
    documents = list(dict.fromkeys(corpus))
    queries = list(dict.fromkeys(pair.query for pair in pairs))
    number = {query: i for i, query in enumerate(queries)}
    of_document: dict[str, set[str]] = {}  # the positives of one document may all answer its query
    for pair in pairs:
        if pair.document is not None:
            of_document.setdefault(pair.document, set()).add(pair.positive)
    answers: dict[str, set[str]] = {}
    for pair in pairs:
        known = answers.setdefault(pair.query, {pair.query})
        known.add(pair.positive)
        if pair.document is not None:
            known |= of_document[pair.document]
    depth = filters.last + max(map(len, answers.values()))
    query_vectors = encoder.encode_query(queries, prompt=prompt, normalize=True, progress=progress)
    scores, best, _ = search(
        encoder, query_vectors, enumerate(documents), depth=depth, prompt=document_prompt, progress=progress
    )
    positives = _positive_cosines(encoder, pairs, query_vectors, number, document_prompt)
    found = Mined(0, 0, 0)
    generator = np.random.default_rng(seed)
    with write_whole(out) as file:
        for pair, positive in zip(pairs, positives, strict=True):
            row = number[pair.query]
            ranked = [
                (documents[i], float(score))
                for i, score in zip(best[row], scores[row], strict=True)
                if documents[i] not in answers[pair.query]
            ]
            chosen = _choose(ranked, positive, filters, generator)
            found = Mined(
                found.pairs + bool(chosen), found.fewer + (0 < len(chosen) < filters.count), found.none + (not chosen)
            )
            if chosen:
                file.write(_line(pair, positive, chosen))
    return found


def _choose(
    ranked: Sequence[tuple[str, float]], positive: float, filters: Filters, generator: np.random.Generator
) -> list[tuple[str, float]]:
    """The negatives of one pair, best first."""
    bound = np.inf
    if filters.margin is not None:
        bound = positive - filters.margin
    if filters.share is not None:
        bound = min(bound, positive * filters.share)
    left = [one for one in ranked[filters.first : filters.last] if one[1] < bound]
    if filters.choice == "top" or len(left) <= filters.count:
        return left[: filters.count]
    return [left[i] for i in sorted(generator.choice(len(left), filters.count, replace=False))]


def _positive_cosines(
    encoder: TextEncoder, pairs: Sequence[Pair], queries: Floats, number: dict[str, int], prompt: str | None
) -> list[float]:
    found: list[float] = []
    for part in chunks(pairs, _PAIRS_AT_ONCE):
        vectors = encoder.encode_document([pair.positive for pair in part], prompt=prompt, normalize=True)
        own = queries[[number[pair.query] for pair in part]]
        found += np.einsum("nd,nd->n", own, vectors).tolist()
    return found


def _line(pair: Pair, positive: float, chosen: Sequence[tuple[str, float]]) -> str:
    row: dict[str, Any] = {"query": pair.query, "positive": pair.positive, "negatives": [text for text, _ in chosen]}
    if pair.document is not None:
        row["document"] = pair.document
    row["positive_cosine"] = round(positive, 4)
    row["negative_cosines"] = [round(score, 4) for _, score in chosen]
    return json.dumps(row, ensure_ascii=False) + "\n"
