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
# What else people write, which is not understood: b-per, B:PER, PER|i, B without anything behind its hyphen.
_OTHER_FORM = re.compile(r"[BIESLUM]([^\w\s]|_| |$).*|.+([^\w\s]|_| )[BIESLUM]", re.IGNORECASE)


def span_scheme(labels: Sequence[str]) -> str | None:
    """The scheme that a set of labels follows: BIO, IOBES or BILOU; None if they mark no spans.

    The mark stands in front of the kind or behind it (B-PER, B_PER, PER-B), or alone, where there is but one kind.

    Raises:
        DataError: labels look like spans, and some do not, or by a letter that no scheme has, or in another form.
    """
    found = _find_scheme(tuple(labels))
    return found[0] if found else None


@lru_cache(maxsize=64)
def _find_scheme(labels: tuple[str, ...]) -> tuple[str, re.Pattern[str]] | None:
    """The scheme of a set of labels, and how they are written."""
    for certain in (True, False):  # B or I among the marks; or only others, such as S-PER beside O
        for form in _FORMS:
            marked = {label: found["mark"] for label in labels if (found := form.fullmatch(label))}
            marks, whole = set(marked.values()), set(labels) <= {*marked, "O"}
            if not (bool({"B", "I", "b", "i"} & marks) if certain else marks and "O" in labels):
                continue
            for name, letters in _LETTERS.items():
                if whole and marks <= letters:
                    return name, form
            if certain and (whole or form in _FORMS[:2]):  # the others may be words that happen to end so
                raise DataError(_unknown_scheme(labels, marked))
    named = [label for label in labels if label.upper() != "O"]
    twins = any(label[:1] == "B" and label[1:] and f"I{label[1:]}" in labels for label in labels)
    if len(named) < len(labels) and named and (twins or all(map(_OTHER_FORM.fullmatch, named))):
        raise DataError(_unknown_scheme(labels, {}))
    return None


def _unknown_scheme(labels: Sequence[str], marked: dict[str, str]) -> str:
    odd = next(
        (label for label in sorted(labels) if label != "O" and marked.get(label) not in set("BIESLU")),
        ", ".join(sorted(set(marked.values()))),
    )
    return (
        f"Unknown label scheme: {odd!r} is not of BIO (B-x, I-x, O), IOBES or BILOU. "
        "Correct the labels, or score words only with --scheme none."
    )


def marks_spans(labels: Sequence[str]) -> bool:
    """True for labels that mark spans by a scheme that is known."""
    try:
        return span_scheme(labels) is not None
    except DataError:
        return False


@lru_cache(maxsize=4096)
def _in_iobes(label: str, form: re.Pattern[str]) -> str:
    """A label as seqeval reads it: mark, hyphen, kind."""
    found = form.fullmatch(label)
    return f"{found['mark'].translate(_TO_IOBES)}-{found['kind'] or '_'}" if found else label


def spans(labels: Sequence[str], known: Sequence[str]) -> list[Span]:
    """The spans of one sentence, as conlleval and seqeval read them; the kind of marks without one is `_`.

    Args:
        labels: of the words.
        known: all labels that there are, which tell how marks are written; they must mark spans.
    """
    from seqeval.metrics.sequence_labeling import get_entities

    scheme = _find_scheme(tuple(known))
    assert scheme is not None
    with quiet():
        found: list[Span] = get_entities([_in_iobes(label, scheme[1]) for label in labels])
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
        own = [
            set(spans([names[i] for i in ids[start : start + length].tolist()], names)) for ids in (truth, predicted)
        ]
        right, there, found = right + len(own[0] & own[1]), there + len(own[0]), found + len(own[1])
        start += length
    return 100 * 2 * right / max(1, there + found)
