"""Which neighbours a token's state still knows, to the left and to the right, by linear probes.

A causal decoder's states hold what came before them, and of what follows only what can be guessed. Bidirectional
attention lets the right context in; whether the left one suffers for it (arXiv 2510.01652) is what this shows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unmask.encoder import Floats, TextEncoder
from unmask.errors import DataError

OFFSETS = (-8, -4, -3, -2, -1, 0, 1, 2, 3, 4, 8)
_PIECES = 30  # the most frequent ones are asked for; rare ones would need far more text
_ROWS = 3000  # of each half, per offset
_FEWEST = 100
_INVERSE_STRENGTH = 0.01  # C of scikit-learn's LogisticRegression, on inputs of variance 1


@dataclass(frozen=True, slots=True)
class Context:
    """What probes read out of single states.

    Attributes:
        offsets: where the asked-for token stands; -1 is the one before, 0 the token itself.
        known: accuracy at each offset, in percent of what guessing the most frequent piece leaves: 0 is guessing.
        rows: states that each probe was tested on.
    """

    offsets: list[int]
    known: list[float]
    rows: list[int]


def context(encoder: TextEncoder, texts: Sequence[str], *, seed: int = 0) -> Context:
    """Train a probe for every offset on half of the texts, and test it on the other half.

    Args:
        encoder: whose last states are read, one a token.
        texts: running text, a few hundred paragraphs.
        seed: of the choice of rows.

    Raises:
        DataError: too little text.
    """
    from sklearn.linear_model import LogisticRegression

    states, pieces, halves = _tokens(encoder, texts)
    common = [piece for piece, _ in Counter(pieces[pieces != ""]).most_common(_PIECES)]
    number = {piece: i for i, piece in enumerate(common)}
    labels = np.array([number.get(piece, -1) for piece in pieces])
    generator = np.random.default_rng(seed)
    found = Context([], [], [])
    for offset in OFFSETS:
        rows = [_rows(labels, halves, half, offset, generator) for half in (0, 1)]
        if min(map(len, rows)) < _FEWEST:
            raise DataError(
                f"{len(texts)} texts are too few to look {abs(offset)} tokens away; give more or longer ones."
            )
        train, test = rows
        mean, scale = states[train].mean(axis=0), states[train].std(axis=0) + 1e-6
        probe = LogisticRegression(C=_INVERSE_STRENGTH, max_iter=200)
        probe.fit((states[train] - mean) / scale, labels[train + offset])
        right = float((probe.predict((states[test] - mean) / scale) == labels[test + offset]).mean())
        guess = float(np.bincount(labels[test + offset]).max() / len(test))
        found.offsets.append(offset)
        found.known.append(100 * (right - guess) / (1 - guess))
        found.rows.append(len(test))
    return found


def _tokens(encoder: TextEncoder, texts: Sequence[str]) -> tuple[Floats, NDArray[np.str_], NDArray[np.int64]]:
    """States [tokens, width], the pieces they stand for, and the half that each text belongs to; gaps between texts."""
    states, pieces, halves = [], [], []
    gap = max(map(abs, OFFSETS))  # so that no neighbour is one of another text
    for at, (text, found) in enumerate(zip(texts, encoder.encode_tokens(texts), strict=True)):
        states += [found.vectors, np.zeros((gap, encoder.dimension), dtype=np.float32)]
        pieces += [text[start:end].strip().lower() for start, end in found.offsets] + [""] * gap
        halves += [at % 2] * len(found.vectors) + [-1] * gap
    return np.concatenate(states), np.array(pieces), np.array(halves)


def _rows(
    labels: NDArray[np.int64],
    halves: NDArray[np.int64],
    half: int,
    offset: int,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """Tokens of a half whose neighbour at an offset is one of the common pieces, a sample in random order."""
    rows = np.flatnonzero(halves == half)
    inside = (rows + offset >= 0) & (rows + offset < len(labels))
    rows = rows[inside]
    rows = rows[labels[rows + offset] >= 0]
    return generator.permutation(rows)[:_ROWS]
