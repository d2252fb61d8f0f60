"""Label schemes that mark spans (entities, chunks), and their F1."""

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unmask.errors import DataError
from unmask.evaluation.quiet import quiet

Scheme = Literal["auto", "none"]
Span = tuple[str, int, int]  # kind, first word, last word
_LETTERS = {"BIO": set("BI"), "IOBES": set("BIES"), "BILOU": set("BILU")}
_TO_IOBES = str.maketrans("LU", "ES")
_MARKED = re.compile(r"^([A-Za-z])-\S+$")


def span_scheme(labels: Sequence[str]) -> str | None:
    """The scheme that a set of labels follows: BIO, IOBES or BILOU; None if they mark no spans.

    Raises:
        DataError: some labels look like spans and others do not, or by a letter that no scheme has.
    """
    marked = {label: found[1] for label in labels if (found := _MARKED.match(label))}
    if not marked or not {"B", "I", "b", "i"} & set(marked.values()):
        return None
    for name, letters in _LETTERS.items():
        if set(marked.values()) <= letters and set(labels) <= {*marked, "O"}:
            return name
    odd = next(
        (label for label in sorted(labels) if label != "O" and marked.get(label) not in set("BIESLU")),
        ", ".join(sorted(set(marked.values()))),
    )
    raise DataError(
        f"Unknown label scheme: {odd!r} is not of BIO (B-x, I-x, O), IOBES or BILOU as the other labels are. "
        "Correct the labels, or score words only with --scheme none."
    )


def spans(labels: Sequence[str]) -> list[Span]:
    """The spans of one sentence, as conlleval and seqeval read them."""
    from seqeval.metrics.sequence_labeling import get_entities

    with quiet():
        found: list[Span] = get_entities([label[:1].translate(_TO_IOBES) + label[1:] for label in labels])
    return found


def span_f1(
    lengths: NDArray[np.int32], truth: NDArray[np.int32], predicted: NDArray[np.int32], names: Sequence[str]
) -> float:
    """F1 in percent over all spans of a corpus (micro average): kind, start and end must be right.

    Args:
        lengths: words of each sentence.
        truth: label numbers, [words].
        predicted: label numbers, [words].
        names: of the labels.
    """
    right = found = there = 0
    start = 0
    for length in lengths.tolist():
        own = [set(spans([names[i] for i in ids[start : start + length].tolist()])) for ids in (truth, predicted)]
        right, there, found = right + len(own[0] & own[1]), there + len(own[0]), found + len(own[1])
        start += length
    return 100 * 2 * right / max(1, there + found)
