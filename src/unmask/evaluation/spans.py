"""Label schemes that mark spans (entities, chunks), and their F1."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unmask.errors import DataError
from unmask.evaluation.quiet import quiet

Scheme = Literal["auto", "none"]
Span = tuple[str, int, int]  # kind, first word, last word
_LETTERS = {"BIO": set("BI"), "IOBES": set("BIES"), "BILOU": set("BILU")}
_TO_IOBES = str.maketrans("LU", "ES")
# How labels say their mark and their kind: B-PER, B_PER, PER-B (or PER_B), and a mark without a kind.
_FORMS = (
    re.compile(r"(?P<mark>[A-Za-z])-(?P<kind>\S+)"),
    re.compile(r"(?P<mark>[BIESLU])_(?P<kind>\S+)"),
    re.compile(r"(?P<kind>\S+)[-_](?P<mark>[BIESLU])"),
    re.compile(r"(?P<mark>[BIESLU])(?P<kind>)"),
)


def span_scheme(labels: Sequence[str]) -> str | None:
    """The scheme that a set of labels follows: BIO, IOBES or BILOU; None if they mark no spans.

    The mark stands in front of the kind or behind it (B-PER, B_PER, PER-B), or alone, where there is but one kind.

    Raises:
        DataError: some labels look like spans and others do not, or by a letter that no scheme has.
    """
    for form in _FORMS:
        marked = {label: found["mark"] for label in labels if (found := form.fullmatch(label))}
        marks, whole = set(marked.values()), set(labels) <= {*marked, "O"}
        if not {"B", "I", "b", "i"} & marks:
            continue
        for name, letters in _LETTERS.items():
            if whole and marks <= letters:
                return name
        if whole or form in _FORMS[:2]:  # the others may be words that happen to end so
            raise DataError(_unknown_scheme(labels, marked))
    return None


def _unknown_scheme(labels: Sequence[str], marked: dict[str, str]) -> str:
    odd = next(
        (label for label in sorted(labels) if label != "O" and marked.get(label) not in set("BIESLU")),
        ", ".join(sorted(set(marked.values()))),
    )
    return (
        f"Unknown label scheme: {odd!r} is not of BIO (B-x, I-x, O), IOBES or BILOU as the other labels are. "
        "Correct the labels, or score words only with --scheme none."
    )


def marks_spans(labels: Sequence[str]) -> bool:
    """True for labels that mark spans by a scheme that is known."""
    try:
        return span_scheme(labels) is not None
    except DataError:
        return False


@lru_cache(maxsize=4096)
def _in_iobes(label: str) -> str:
    """A label as seqeval reads it: mark, hyphen, kind."""
    found = next(filter(None, (form.fullmatch(label) for form in _FORMS)), None)
    if found is None:
        return label
    return f"{found['mark'].translate(_TO_IOBES)}-{found['kind'] or '_'}"


def spans(labels: Sequence[str]) -> list[Span]:
    """The spans of one sentence, as conlleval and seqeval read them; the kind of marks without one is `_`."""
    from seqeval.metrics.sequence_labeling import get_entities

    with quiet():
        found: list[Span] = get_entities([_in_iobes(label) for label in labels])
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
