"""Whether the states of a prefix know how the sentence goes on (section 4.1 of the paper, Figures 4 and 7)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unmask.encoder import Floats, TextEncoder
from unmask.errors import DataError

_KEYS = ("prefix", "query", "positive", "negative")
# Batches differ in their last bits; a causal model's prefixes are equal, and must count as equal.
_TIE = 1e-5


@dataclass(frozen=True, slots=True)
class Triple:
    """Three sentences with one beginning: the query, one that means the same, one that does not."""

    prefix: str
    query: str
    positive: str
    negative: str


@dataclass(frozen=True, slots=True)
class Separation:
    """Cosines of the prefix states, [triples] each, and how well they tell positives from negatives.

    Attributes:
        positive: between query and positive.
        negative: between query and negative.
        auc: chance that a positive's cosine is above a negative's, over all pairs; 0.5 for a causal model.
        right: share of triples whose own positive is above their own negative; ties count half.
    """

    positive: NDArray[np.float64]
    negative: NDArray[np.float64]
    auc: float
    right: float


def read_triples(path: Path | None = None) -> list[Triple]:
    """Read one JSON object a line with prefix, query, positive and negative; by default the 35 of this package.

    Raises:
        DataError: a line that is not of that form, or whose sentences do not begin with the prefix.
    """
    source = path or files("unmask") / "analysis" / "triples.jsonl"
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no such file, or not UTF-8 text ({error}).") from error
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path or 'triples.jsonl'}:{number}"
        try:
            triple = Triple(**{key: str(value) for key, value in json.loads(line).items() if key in _KEYS})
        except (ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{place}: expected an object with {', '.join(_KEYS)}.") from error
        for text in (triple.query, triple.positive, triple.negative):
            if not triple.prefix.strip() or not text.startswith(triple.prefix):
                raise DataError(f"{place}: {text!r} does not begin with the prefix {triple.prefix!r}.")
        found.append(triple)
    if not found:
        raise DataError(f"{path} holds no triple.")
    return found


def separation(encoder: TextEncoder, triples: Sequence[Triple]) -> Separation:
    """Embed whole sentences, pool over the tokens of the prefix only (mean), compare.

    Raises:
        DataError: a prefix without a token of its own.
    """
    from sklearn.metrics import roc_auc_score

    queries, positives, negatives = (
        _prefix_vectors(encoder, [getattr(triple, key) for triple in triples], [t.prefix for t in triples])
        for key in ("query", "positive", "negative")
    )
    positive, negative = ((queries * other).sum(axis=1).astype(np.float64) for other in (positives, negatives))
    rounded = [np.round(values / _TIE) for values in (positive, negative)]
    truth = np.repeat([1, 0], len(triples))
    right = (rounded[0] > rounded[1]) + 0.5 * (rounded[0] == rounded[1])
    return Separation(positive, negative, float(roc_auc_score(truth, np.concatenate(rounded))), float(right.mean()))


def _prefix_vectors(encoder: TextEncoder, texts: Sequence[str], prefixes: Sequence[str]) -> Floats:
    """Mean state of the tokens that end within the prefix, scaled to length 1, [texts, width]."""
    means = []
    for found, prefix in zip(encoder.encode_tokens(texts), prefixes, strict=True):
        inside = found.offsets[:, 1] <= len(prefix)
        if not inside.any():
            raise DataError(f"No token lies within the prefix {prefix!r}.")
        means.append(found.vectors[inside].mean(axis=0))
    vectors: Floats = np.stack(means)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
