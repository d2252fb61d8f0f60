"""Nearest neighbours of a few queries under several encoders, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unmask.encoder import TextEncoder


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What one encoder found closest: the document, the cosine, and whether it is the query's own."""

    encoder: str
    text: str
    cosine: float
    right: bool


@dataclass(frozen=True, slots=True)
class NeighbourExample:
    """One query and what each encoder found."""

    query: str
    found: list[Neighbour]


def nearest(
    encoders: Mapping[str, TextEncoder], queries: Sequence[str], documents: Sequence[str], *, examples: int
) -> list[NeighbourExample]:
    """The closest document of evenly spaced queries; document i belongs to query i."""
    chosen = np.linspace(0, len(queries) - 1, min(examples, len(queries))).astype(int).tolist()
    scores = {
        name: encoder.encode([queries[i] for i in chosen], normalize=True) @ encoder.encode(documents, normalize=True).T
        for name, encoder in encoders.items()
    }
    found = []
    for row, query in enumerate(chosen):
        best = {name: int(values[row].argmax()) for name, values in scores.items()}
        neighbours = [
            Neighbour(name, documents[at], float(scores[name][row, at]), at == query) for name, at in best.items()
        ]
        found.append(NeighbourExample(queries[query], neighbours))
    return found
