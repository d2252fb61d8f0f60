"""Words and their tokens, by offsets; and the tokenizer that ends every text with EOS."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask.errors import ArtifactError, DataError
from unmask.text.checks import ordered
from unmask.text.promises import surround
from unmask.text.spans import TokenizedText, special_affixes


def word_tokens(
    text: TokenizedText, words: Sequence[str], index: int, max_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which tokens make up which word of a text that was its words joined by single spaces.

    A token that covers two words counts for both; a word that no token covers (a tokenizer may drop characters)
    takes the token before it.

    Returns:
        Two arrays of equal length: token numbers and word numbers.

    Raises:
        DataError: the text was cut, so that its last words have no tokens.
    """
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]]) if len(words) else lengths
    ends = starts + lengths
    own = np.flatnonzero(text.in_text)
    if len(own) and len(text) >= max_length and text.offsets[own[-1], 1] < ends[-1]:
        raise DataError(
            f"Text {index} ({' '.join(words[:5])} ...) has {len(words)} words, more than fit in "
            f"max_length={max_length} tokens; split it."
        )
    token_starts, token_ends = text.offsets[own, 0], text.offsets[own, 1]
    # First and last word that each token touches; a token of white space alone touches none.
    first = np.searchsorted(ends, token_starts, side="right")
    last = np.searchsorted(starts, token_ends, side="left") - 1
    tokens: list[int] = [t for t, a, b in zip(own.tolist(), first, last, strict=True) for _ in range(a, b + 1)]
    numbers = [w for a, b in zip(first, last, strict=True) for w in range(a, b + 1)]
    for missing in sorted(set(range(len(words))) - set(numbers)):
        before = own[token_starts <= starts[missing]]
        tokens.append(int(before[-1] if len(before) else own[0] if len(own) else 0))
        numbers.append(missing)
    return np.asarray(tokens, dtype=np.int64), np.asarray(numbers, dtype=np.int64)


def append_eos(tokenizer: Any) -> None:
    """Make the tokenizer itself end every text with EOS, so that every runtime that loads it does the same.

    Raises:
        ArtifactError: the tokenizer has no EOS token.
    """
    if tokenizer.eos_token_id is None:
        raise ArtifactError("pooling 'eos' needs an EOS token, and the tokenizer has none.")
    before, after = special_affixes(tokenizer)
    if after and after[-1] == tokenizer.eos_token_id:
        return
    if not surround(tokenizer, before, [*after, tokenizer.eos_token_id]):
        raise ArtifactError(f"{type(tokenizer).__name__} cannot be made to append its EOS token.")


def checked_words(words: Iterable[str], index: int) -> list[str]:
    """The words of text number `index` as a list.

    Raises:
        DataError: no list of words, or a word that is empty or no string.
    """
    if isinstance(words, str):
        raise DataError(f"Text {index} is a string; encode_words takes lists of words.")
    listed = list(ordered(words, f"The words of text {index}"))
    for word in listed:
        if not isinstance(word, str) or not word.strip():
            raise DataError(f"Text {index} has an empty or non-string word: {word!r}.")
    return listed
